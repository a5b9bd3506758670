"""`jaxgeo.fit`."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax

import jaxgeo as jg
from input_matrix.cells import Case, Entry, Unusual
from input_matrix.values import (
    MODEL,
    PARAMS,
    SEEN,
    X,
    Y,
    apply,
    called,
    count,
    fails,
    floats,
    holed,
    models,
    networks,
    number,
    optional,
    params,
    switch,
)
from jaxgeo.fitting import Interruptible

# Two updates, of which a part is one: what is called after a part is called twice.
UPDATES = {"method": "sgd", "max_steps": 2, "record_every": 1, "tol": 0.0}
PART = {"method": "rank-adaptive", "max_steps": 1, "tol": 0.5}


class Fails(eqx.Module):
    """A network that raises."""

    slope: Any

    def __call__(self, x: Any) -> Any:
        raise Unusual("my network")


class Bends(eqx.Module):
    """A network that is a function of the slope and a sample."""

    slope: Any
    function: Any = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.function(self.slope, x)


def training() -> list[Entry]:
    def update(model: Any = MODEL, inputs: Any = X, targets: Any = Y, **options: Any) -> Any:
        return jg.fit(model, inputs, targets, **(UPDATES | options))

    def follow(model: Any = MODEL, inputs: Any = X, targets: Any = Y, **options: Any) -> Any:
        return jg.fit(model, inputs, targets, **(PART | options))

    def keep(**options: Any) -> Any:
        return update(folder=Path(tempfile.mkdtemp()) / "run", **options)

    return [
        *_networks_and_data(update, follow),
        *_methods(update, follow),
        *_numbers(update, follow, keep),
        *_watchers(update, follow),
        *_folders(update),
    ]


def _networks_and_data(update: Any, follow: Any) -> list[Entry]:
    slope = jnp.array([0.5, 0.2])

    def bent(function: Any) -> Case:
        return Case(Bends(slope, function), False)

    def remembering(slope: Any, x: Any) -> Any:
        SEEN.append(x)
        return slope @ x

    def printing(slope: Any, x: Any) -> Any:
        print(end="")
        return slope @ x

    more = {
        "raises": Case(Fails(slope), True),
        "keeps what it sees": bent(remembering),
        "prints": bent(printing),
        "returns None": Case(Bends(slope, lambda slope, x: None), True),
        "returns a list": Case(Bends(slope, lambda slope, x: [slope @ x]), True),
        "returns integers": Case(Bends(slope, lambda slope, x: (slope @ x).astype(int)), True),
        "returns nothing": Case(Bends(slope, lambda slope, x: jnp.zeros(0)), True),
        "returns a number": bent(lambda slope, x: slope @ x),
        "takes no argument": Case(Bends(slope, lambda: slope), True),
        "class": Case(eqx.nn.MLP, True),
        "dictionary": Case(PARAMS, True),
        "zero-size leaf": Case((Bends({"a": slope, "none": jnp.zeros((0, 3))}, lambda s, x: s["a"] @ x)), False),
        "no trainable leaf": Case(Bends(np.array([1, 2]), lambda slope, x: slope @ x), True),
        "complex": Case(Bends(slope + 1j, lambda slope, x: (slope @ x).real), True),
    }
    data = {"inputs": X, "targets": Y}
    names = {
        "model": ("`model", "`params", "`apply", "`targets"),
        "inputs": ("`inputs", "`targets", "`apply"),
        "targets": ("`targets", "`inputs"),
        "apply": ("`apply", "`targets", "`model"),
    }
    functions = networks() | {"None": Case(None, True), "class": Case(eqx.nn.MLP, True)}
    return [
        Entry("fit", update, {"model": MODEL, **data}, {"model": models() | more, "inputs": _inputs()}, names),
        Entry("fit to targets", update, data, {"targets": floats(Y)}, names),
        Entry("fit along a flow", follow, {"model": MODEL, **data}, {"model": models()}, names),
        Entry(
            "fit of params",
            lambda **a: update(inputs=X, targets=Y, **a),
            {"model": PARAMS, "apply": apply},
            {"model": params(), "apply": functions},
            names,
        ),
        Entry(
            "fit of params along a flow",
            lambda **a: follow(model=PARAMS, **a),
            {"apply": apply},
            {"apply": functions},
            names,
        ),
        Entry(
            "fit of a part",
            update,
            {"model": MODEL},
            {
                "trainable": {
                    "None": Case(None, True),
                    "False": Case(False, True),
                    "text": Case("all", True),
                    "number": Case(1.0, True),
                    "another tree": Case({"w": True}, True),
                    "raises": Case(fails, True),
                    "no leaf": Case(lambda leaf: False, True),
                    "not arrays": Case(lambda leaf: True, True),
                }
            },
            {"trainable": ("`trainable", "`params")},
        ),
    ]


def _inputs() -> dict[str, Case]:
    return floats(X) | {
        "of another width": Case(np.ones((4, 3)), True),
        "tree": Case({"x": X}, True),
        "no tree": Case({}, True),
    }


def _methods(update: Any, follow: Any) -> list[Entry]:
    wrong = {
        "misspelt": Case("adma", True),
        "empty": Case("", True),
        "None": Case(None, True),
        "number": Case(1, True),
        "class": Case(jg.AdaptedFlow, True),
        "factory": Case(optax.adam, True),
        "pair": Case((optax.adam(0.1), None), True),
        "flow on outputs": Case(jg.OutputFlow(), True),
        "list": Case(["adam"], True),
    }
    costs = {
        "Huber": Case(jg.Huber, False),
        "function": Case(lambda targets: jg.L2(targets), False),
        "None": Case(None, True),
        "instance": Case(jg.L2(Y), True),
        "array": Case(Y, True),
        "text": Case("l2", True),
        "raises": Case(fails, True),
        "returns None": Case(lambda targets: None, True),
        "returns numbers": Case(lambda targets: jnp.sum(targets), True),
        "another number of samples": Case(lambda targets: jg.L2(targets[:1]), True),
        "abstract": Case(jg.AbstractCost, True),
        "of no targets": Case(jg.SumOfSquares, True),
        "of labels": Case(jg.SoftmaxCrossEntropy.from_labels, True),
        "of two arguments": Case(jg.SampleWeighted, True),
    }
    optimizers = {
        "adam": "adam",
        "optax": optax.sgd(0.1),
        "optax chain": optax.chain(optax.clip(1.0), optax.adam(0.1)),
        "accelerated": "levenberg-marquardt",
        "line search": "lbfgs",
        "without state": optax.identity(),
    }
    flows = {
        "adapted": jg.AdaptedFlow(),
        "standard": "standard",
        "under": jg.UnderparametrizedFlow(),
        "half way": jg.HomotopyFlow(0.5),
        "straight": jg.InterpolationFlow(),
    }
    bare = {"a class of one's own": Case(type("Mine", (jg.AbstractFlow,), {}), True)}
    return [
        Entry(
            "fit by a method",
            update,
            {},
            {"method": wrong | {name: Case(value, False) for name, value in optimizers.items()}},
        ),
        Entry(
            "fit by a flow",
            follow,
            {},
            {"method": {name: Case(value, False) for name, value in flows.items()} | bare},
            {"method": ("`method", "`UnderparametrizedFlow`", "`velocity")},
        ),
        Entry("fit of a cost", update, {}, {"cost": costs}, {"cost": ("`cost", "`labels", "`targets")}),
    ]


def _numbers(update: Any, follow: Any, keep: Any) -> list[Entry]:
    tol = number(zero=True) | {"one": Case(1.0, True), "more": Case(2, True), "None": Case(None, True)}
    size = optional(count()) | {"NumPy integer": Case(np.int64(2), False), "too many": Case(5, True)}
    seed = count(least=0) | {"zero": Case(0, False), "large": Case(2**40, False), "key": Case(jnp.arange(2), True)}
    return [
        Entry(
            "fit to numbers",
            update,
            {},
            {
                "tol": tol,
                "max_steps": count() | {"NumPy integer": Case(np.int64(2), False)},
                "batch_size": size,
                "record_every": optional(count()),
                "keep_every": number(zero=True, infinite=True),
                "seed": seed,
            },
        ),
        Entry("fit along a flow to numbers", follow, {}, {"tol": tol | {"zero": Case(0.0, True)}, "rtol": number()}),
        Entry(
            "fit along a flow what is for optimizers",
            follow,
            {},
            {"batch_size": {"two": Case(2, True)}, "record_every": {"two": Case(2, True)}},
        ),
        Entry("fit by updates what is for flows", update, {}, {"rtol": {"small": Case(1e-3, True)}}),
        Entry(
            "fit that is kept",
            keep,
            {},
            {
                "batch_size": {"NumPy integer": Case(np.int64(2), False)},
                "max_steps": {"NumPy integer": Case(np.int64(2), False)},
                "seed": {"NumPy integer": Case(np.int64(2), False)},
                "keep_every": {"NumPy scalar": Case(np.float32(0), False), "JAX scalar": Case(jnp.zeros(()), False)},
                "inputs": {"float32": Case(X.astype(np.float32), False), "list": Case(X.tolist(), False)},
                "targets": {"JAX": Case(jnp.asarray(Y), False)},
            },
        ),
        Entry(
            "fit with switches",
            update,
            {},
            {"resume": switch(), "rank_check": switch(), "per_sample": switch()},
            {"per_sample": ("per_sample", "apply")},
        ),
    ]


def _watchers(update: Any, follow: Any) -> list[Entry]:
    pairs = {
        "list": Case([X, Y], False),
        "one": Case((X,), True),
        "three": Case((X, Y, Y), True),
        "array": Case(X, True),
        "text": Case("validation", True),
        "number": Case(0.2, True),
        "None in it": Case((X, None), True),
        "NaN inputs": Case((holed(X, np.nan), Y), True),
        "NaN targets": Case((X, holed(Y, np.nan)), True),
        "empty": Case((X[:0], Y[:0]), True),
        "other lengths": Case((X, Y[:2]), True),
        "other features": Case((np.ones((4, 3)), Y), True),
        "other outputs": Case((X, np.ones((4, 2))), True),
        "one sample": Case((X[:1], Y[:1]), False),
        "ragged": Case((X, [[1.0], [1.0, 2.0]]), True),
        "strings": Case((X.astype(str), Y), True),
    }
    records = called() | {
        "raises": Case(fails, True),
        "no arguments": Case(lambda: {}, True),
        "returns None": Case(lambda s, params, problem: None, True),
        "returns a list": Case(lambda s, params, problem: [1.0], True),
        "returns a number": Case(lambda s, params, problem: s, True),
        "a vector in it": Case(lambda s, params, problem: {"a": jnp.ones(2)}, True),
        "text in it": Case(lambda s, params, problem: {"a": "b"}, True),
        "None in it": Case(lambda s, params, problem: {"a": None}, True),
        "a key that is no text": Case(lambda s, params, problem: {1: s}, True),
        "a name in use": Case(lambda s, params, problem: {"cost": 0 * s}, True),
        "nothing in it": Case(lambda s, params, problem: {}, False),
        "a Python number in it": Case(lambda s, params, problem: {"a": 1.0}, False),
        "an integer in it": Case(lambda s, params, problem: {"a": jnp.array(1)}, False),
        "complex": Case(lambda s, params, problem: {"a": 1j * s}, True),
    }
    listeners = called() | {"raises": Case(fails, True), "returns something": Case(lambda progress: 1.0, False)}
    callbacks = {
        "function": Case(len, True),
        "None": Case(None, True),
        "number": Case(1, True),
        "text": Case("stop", True),
        "None in it": Case([None], True),
        "raises": Case([fails], True),
        "iterator": Case(iter([lambda progress, model: None]), False),
        "stops": Case((lambda progress, model: True,), False),
        "returns an array": Case([lambda progress, model: np.True_], False),
        "returns something": Case([lambda progress, model: "stop"], False),
        "takes no argument": Case([lambda: None], True),
    }
    interruptibles = {
        "own": Case(Interruptible(lambda: None), False),
        "True": Case(True, True),
        "class": Case(Interruptible, True),
        "function": Case(len, True),
    }
    # A function that cannot be called as it should has Python's own error, which names the function.
    own = ("positional argument",)
    names = {"record": ("`record", *own), "callbacks": ("`callbacks", *own), "patience": ("`patience", "`validation")}
    return [
        Entry(
            "fit watched",
            update,
            {"validation": (X, Y)},
            {
                "validation": pairs,
                "patience": optional(count()),
                "record": records,
                "progress": listeners,
                "callbacks": callbacks,
                "interruptible": interruptibles,
            },
            names,
        ),
        Entry("fit without validation", update, {}, {"patience": {"three": Case(3, True)}}, names),
        Entry("fit along a flow watched", follow, {}, {"record": records, "progress": listeners}, names),
    ]


def _folders(update: Any) -> list[Entry]:
    place = Path(tempfile.mkdtemp())
    (place / "file").write_text("mine")
    used = place / "used"
    update(folder=used)
    fresh = (place / f"run{i}" for i in itertools.count())
    return [
        Entry(
            "fit in a folder",
            update,
            {},
            {
                "folder": {
                    "path": Case(next(fresh), False),
                    "text": Case(str(next(fresh)), False),
                    "empty text": Case("", True),
                    "bytes": Case(b"run", True),
                    "number": Case(1, True),
                    "True": Case(True, True),
                    "list": Case(["run"], True),
                    "file": Case(place / "file", True),
                    "in a file": Case(place / "file" / "run", True),
                    "NUL": Case(str(place / "a\0b"), True),
                    "too long": Case(place / ("a" * 300), True),
                    "in use": Case(used, True),
                    "of the system": Case(Path("/proc/run"), True),
                }
            },
            {"folder": ("`folder`", "cannot write")},
        ),
        Entry(
            "fit gone on with",
            update,
            {"folder": used},
            {"resume": {"True": Case(True, False), "NumPy": Case(np.True_, False), "text": Case("no", True)}},
        ),
        Entry("fit without a folder", update, {}, {"resume": {"True": Case(True, True)}}),
    ]
