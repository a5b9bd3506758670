"""`jaxgeo.fit`."""

import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax

import jaxgeo as jg
from input_matrix.cells import Case, Entry, Unusual, entry, refused, works
from input_matrix.values import (
    COUNT,
    FUNCTION,
    INDEX,
    MODEL,
    OPTIONAL_COUNT,
    PARAMS,
    POSITIVE,
    SEEN,
    X,
    Y,
    apply,
    fails,
    floats,
    holed,
    models,
    networks,
    number,
    params,
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


# A function that cannot be called as it should has Python's own error, which names the function.
NAMED = {
    "model": ("`model", "`params", "`apply", "`targets"),
    "inputs": ("`inputs", "`targets", "`apply"),
    "targets": ("`targets", "`inputs"),
    "apply": ("`apply", "`targets", "`model"),
    "trainable": ("`trainable", "`params"),
    "method": ("`method", "`UnderparametrizedFlow`", "`velocity"),
    "cost": ("`cost", "`labels", "`targets"),
    "record": ("`record", "positional argument"),
    "callbacks": ("`callbacks", "positional argument"),
    "patience": ("`patience", "`validation"),
    "folder": ("`folder`", "cannot write"),
}


def update(model: Any = MODEL, inputs: Any = X, targets: Any = Y, **options: Any) -> Any:
    return jg.fit(model, inputs, targets, **(UPDATES | options))


def follow(model: Any = MODEL, inputs: Any = X, targets: Any = Y, **options: Any) -> Any:
    return jg.fit(model, inputs, targets, **(PART | options))


def keep(**options: Any) -> Any:
    return update(folder=Path(tempfile.mkdtemp()) / "run", **options)


def training() -> list[Entry]:
    return [*_networks_and_data(), *_methods(), *_numbers(), *_watchers(), *_folders()]


def _networks_and_data() -> list[Entry]:
    slope = jnp.array([0.5, 0.2])

    def remembering(slope: Any, x: Any) -> Any:
        SEEN.append(x)
        return slope @ x

    def printing(slope: Any, x: Any) -> Any:
        print(end="")
        return slope @ x

    more = works(
        keeps_what_it_sees=Bends(slope, remembering),
        prints=Bends(slope, printing),
        returns_a_number=Bends(slope, lambda slope, x: slope @ x),
        zero_size_leaf=Bends({"a": slope, "none": jnp.zeros((0, 3))}, lambda s, x: s["a"] @ x),
    ) | refused(
        raises=Fails(slope),
        returns_None=Bends(slope, lambda slope, x: None),
        returns_a_list=Bends(slope, lambda slope, x: [slope @ x]),
        returns_integers=Bends(slope, lambda slope, x: (slope @ x).astype(int)),
        returns_nothing=Bends(slope, lambda slope, x: jnp.zeros(0)),
        takes_no_argument=Bends(slope, lambda: slope),
        dictionary=PARAMS,
        no_trainable_leaf=Bends(np.array([1, 2]), lambda slope, x: slope @ x),
        complex=Bends(slope + 1j, lambda slope, x: (slope @ x).real),
    )
    more["class"] = Case(eqx.nn.MLP, True)
    inputs = floats(X) | refused(of_another_width=np.ones((4, 3)), tree={"x": X}, no_tree={})
    functions = networks() | {"class": Case(eqx.nn.MLP, True)}
    trainable = refused(
        None_=None,
        False_=False,
        text="all",
        number=1.0,
        another_tree={"w": True},
        raises=fails,
        no_leaf=lambda leaf: False,
        not_arrays=lambda leaf: True,
    )
    of_params = {"model": PARAMS, "apply": apply}
    return [
        entry("fit", update, named=NAMED, model=models() | more, inputs=inputs, targets=floats(Y), trainable=trainable),
        entry("fit along a flow", follow, named=NAMED, model=models()),
        entry("fit of params", update, of_params, named=NAMED, model=params(), apply=functions),
        entry("fit of params along a flow", follow, of_params, named=NAMED, apply=functions),
    ]


def _methods() -> list[Entry]:
    methods = refused(
        misspelt="adma",
        empty="",
        number=1,
        factory=optax.adam,
        pair=(optax.adam(0.1), None),
        flow_on_outputs=jg.OutputFlow(),
        list=["adam"],
    ) | works(
        adam="adam",
        optax=optax.sgd(0.1),
        optax_chain=optax.chain(optax.clip(1.0), optax.adam(0.1)),
        accelerated="levenberg-marquardt",
        line_search="lbfgs",
        without_state=optax.identity(),
    )
    methods["class"] = Case(jg.AdaptedFlow, True)
    costs = works(Huber=jg.Huber, function=lambda targets: jg.L2(targets)) | refused(
        None_=None,
        instance=jg.L2(Y),
        array=Y,
        text="l2",
        raises=fails,
        returns_None=lambda targets: None,
        returns_numbers=lambda targets: jnp.sum(targets),
        another_number_of_samples=lambda targets: jg.L2(targets[:1]),
        abstract=jg.AbstractCost,
        of_no_targets=jg.SumOfSquares,
        of_labels=jg.SoftmaxCrossEntropy.from_labels,
        of_two_arguments=jg.SampleWeighted,
    )
    flows = works(
        adapted=jg.AdaptedFlow(),
        standard="standard",
        under=jg.UnderparametrizedFlow(),
        half_way=jg.HomotopyFlow(0.5),
        straight=jg.InterpolationFlow(),
    )
    flows["a class of one's own"] = Case(type("Mine", (jg.AbstractFlow,), {}), True)
    return [
        entry("fit by a method", update, method=methods),
        entry("fit by a flow", follow, named=NAMED, method=flows),
        entry("fit of a cost", update, named=NAMED, cost=costs),
    ]


def _numbers() -> list[Entry]:
    tol = number(zero=True) | refused(one=1.0, more=2) | works(None_=None)
    two = works(NumPy_integer=np.int64(2))
    return [
        entry(
            "fit to numbers",
            update,
            tol=tol,
            max_steps=COUNT | two,
            batch_size=OPTIONAL_COUNT | two | refused(too_many=5),
            record_every=OPTIONAL_COUNT,
            keep_every=number(zero=True, infinite=True),
            seed=INDEX | works(large=2**40) | refused(key=jnp.arange(2)),
        ),
        entry("fit along a flow to numbers", follow, tol=tol | refused(zero=0.0), rtol=POSITIVE),
        entry(
            "fit along a flow what is for optimizers", follow, batch_size=refused(two=2), record_every=refused(two=2)
        ),
        entry("fit by updates what is for flows", update, rtol=refused(small=1e-3)),
        entry(
            "fit that is kept",
            keep,
            batch_size=two,
            max_steps=two,
            seed=two,
            keep_every=works(NumPy_scalar=np.float32(0), JAX_scalar=jnp.zeros(())),
            inputs=works(float32=X.astype(np.float32), list=X.tolist()),
            targets=works(JAX=jnp.asarray(Y)),
        ),
    ]


def _watchers() -> list[Entry]:
    pairs = works(list=[X, Y], one_sample=(X[:1], Y[:1])) | refused(
        one=(X,),
        three=(X, Y, Y),
        array=X,
        text="validation",
        number=0.2,
        None_in_it=(X, None),
        NaN_inputs=(holed(X, np.nan), Y),
        NaN_targets=(X, holed(Y, np.nan)),
        empty=(X[:0], Y[:0]),
        other_lengths=(X, Y[:2]),
        other_features=(np.ones((4, 3)), Y),
        other_outputs=(X, np.ones((4, 2))),
        ragged=(X, [[1.0], [1.0, 2.0]]),
        strings=(X.astype(str), Y),
    )
    records = FUNCTION | works(
        nothing_in_it=lambda s, params, problem: {},
        a_Python_number_in_it=lambda s, params, problem: {"a": 1.0},
        an_integer_in_it=lambda s, params, problem: {"a": jnp.array(1)},
    )
    records |= refused(
        raises=fails,
        no_arguments=lambda: {},
        returns_None=lambda s, params, problem: None,
        returns_a_list=lambda s, params, problem: [1.0],
        returns_a_number=lambda s, params, problem: s,
        a_vector_in_it=lambda s, params, problem: {"a": jnp.ones(2)},
        text_in_it=lambda s, params, problem: {"a": "b"},
        None_in_it=lambda s, params, problem: {"a": None},
        a_key_that_is_no_text=lambda s, params, problem: {1: s},
        a_name_in_use=lambda s, params, problem: {"cost": 0 * s},
        complex=lambda s, params, problem: {"a": 1j * s},
    )
    listeners = FUNCTION | refused(raises=fails) | works(returns_something=lambda progress: 1.0)
    callbacks = refused(
        function=len,
        None_=None,
        number=1,
        text="stop",
        None_in_it=[None],
        raises=[fails],
        takes_no_argument=[lambda: None],
    ) | works(
        iterator=iter([lambda progress, model: None]),
        stops=(lambda progress, model: True,),
        returns_an_array=[lambda progress, model: np.True_],
        returns_something=[lambda progress, model: "stop"],
    )
    interruptibles = works(own=Interruptible(lambda: None)) | refused(True_=True, function=len)
    interruptibles["class"] = Case(Interruptible, True)
    return [
        entry(
            "fit watched",
            update,
            {"validation": (X, Y)},
            named=NAMED,
            validation=pairs,
            patience=OPTIONAL_COUNT,
            record=records,
            progress=listeners,
            callbacks=callbacks,
            interruptible=interruptibles,
        ),
        entry("fit without validation", update, named=NAMED, patience=refused(three=3)),
        entry("fit along a flow watched", follow, named=NAMED, record=records, progress=listeners),
    ]


def _folders() -> list[Entry]:
    place = Path(tempfile.mkdtemp())
    (place / "file").write_text("mine")
    used = place / "used"
    update(folder=used)
    folders = works(path=place / "run0", text=str(place / "run1")) | refused(
        empty_text="",
        bytes=b"run",
        number=1,
        True_=True,
        list=["run"],
        file=place / "file",
        in_a_file=place / "file" / "run",
        NUL=str(place / "a\0b"),
        too_long=place / ("a" * 300),
        in_use=used,
        of_the_system=Path("/proc/run"),
    )
    return [
        entry("fit in a folder", update, named=NAMED, folder=folders),
        entry("fit gone on with", update, {"folder": used}, resume=works(True_=True, NumPy=np.True_)),
        entry("fit without a folder", update, resume=refused(True_=True)),
    ]
