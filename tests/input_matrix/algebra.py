"""Lifts and their solvers."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import (
    PARAMS,
    PROBLEM,
    X,
    Y,
    apply,
    count,
    fails,
    floats,
    number,
    optional,
    params,
    solvers,
    switch,
    tangent,
)
from jaxgeo.linalg import (
    CG,
    LSMR,
    QR,
    SVD,
    Auto,
    DenseCholesky,
    Gram,
    GramCholesky,
    GramEigh,
    HardCutoff,
    NormalCholesky,
    Nystrom,
    SmoothCutoff,
    lift_gradient,
    rank_record,
    streamed_lift,
)


def algebra() -> list[Entry]:
    velocity = floats(Y)
    solver = {"None": Case(None, False), "class": Case(GramCholesky, True), "text": Case("cholesky", True)}
    some = number()
    # What is recorded is compiled, and reads no values.
    unread = {k: v for k, v in params().items() if k not in ("NaN", "inf", "text leaf")}

    def solve(solver: Any) -> Any:
        return jg.lift(PROBLEM, PARAMS, jnp.asarray(Y), solver)

    return [
        Entry(
            "lift",
            lambda **a: jg.lift(PROBLEM, **a),
            {"params": PARAMS, "velocity": Y},
            {"params": params(), "velocity": velocity, "damping": number(zero=True), "solver": solver},
            {"params": ("params", "apply", "dot_general")},
        ),
        Entry("CG", lambda **a: solve(CG(**a)), {"rtol": 1e-6, "max_steps": 50}, {"rtol": some, "max_steps": count()}),
        Entry(
            "LSMR",
            lambda **a: solve(LSMR(**a)),
            {"rtol": 1e-6, "max_steps": 50},
            {"rtol": some, "max_steps": optional(count())},
        ),
        Entry(
            "Nystrom",
            Nystrom,
            {"rank": 2, "batch_size": 4},
            {"rank": count(), "batch_size": count(), "seed": count(least=0)},
        ),
        Entry(
            "CG otherwise",
            lambda **a: solve(CG(**a)),
            {},
            {
                "preconditioner": {"None": Case(None, False), "class": Case(Nystrom, True), "rank": Case(2, True)},
                "hold_gram": switch(),
            },
        ),
        Entry("HardCutoff", lambda rcond: solve(SVD(HardCutoff(rcond))), {"rcond": 1e-8}, {"rcond": some}),
        Entry(
            "SmoothCutoff",
            lambda **a: solve(SVD(SmoothCutoff(**a))),
            {"rcond": 1e-8, "width": 4.0},
            {"rcond": some, "width": some},
        ),
        Entry(
            "Auto",
            Auto,
            {"memory": 10**9, "max_entries": 1000},
            {"memory": optional(count()), "max_entries": count(least=0), "cutoff": cutoffs()},
        ),
        Entry(
            "NormalCholesky",
            NormalCholesky,
            {"chunk_size": 2},
            {"chunk_size": count(), "max_decomposition": count(least=0)},
        ),
        Entry(
            "GramCholesky",
            GramCholesky,
            {"refinements": 2},
            {"refinements": count(least=0), "max_decomposition": count(least=0), "dense_fallback": switch()},
        ),
        *factored(),
        *streamed(),
        Entry(
            "lift_gradient",
            lambda **a: lift_gradient(PROBLEM.jacobian(PARAMS), **a),
            {"gradient": PARAMS, "damping": None},
            {"gradient": tangent(), "damping": number(zero=True), "solver": solvers()},
        ),
        Entry(
            "Gram",
            lambda memory: Gram(PROBLEM.jacobian(PARAMS), memory=memory).as_matrix(),
            {},
            {"memory": optional(count()) | {"NumPy integer": Case(np.int64(10**6), False)}},
        ),
        Entry(
            "rank_record",
            lambda params: rank_record(0.0, params, PROBLEM),
            {"params": PARAMS},
            {"params": unread},
            {"params": ("`params", "`apply", "dot_general")},
        ),
    ]


def cutoffs() -> dict[str, Case]:
    return {
        "class": Case(HardCutoff, True),
        "number": Case(1e-8, True),
        "None": Case(None, True),
        "text": Case("hard", True),
        "hard": Case(HardCutoff(1e-8), False),
    }


def factored() -> list[Entry]:
    dtypes = {
        "type": Case(jnp.float64, False),
        "dtype": Case(jnp.dtype("float64"), False),
        "text": Case("float64", False),
        "float32": Case(jnp.dtype("float32"), False),
        "integer": Case(jnp.dtype("int32"), True),
        "half": Case(jnp.dtype("float16"), True),
        "other name": Case("single", False),
        "no dtype": Case("float46", True),
        "number": Case(64, True),
    }
    return [
        Entry(
            kind.__name__,
            lambda kind=kind, **a: jg.lift(PROBLEM, PARAMS, Y, kind(**a)),
            {},
            {"cutoff": cutoffs(), dtype: dtypes},
        )
        for kind, dtype in [
            (QR, "dtype"),
            (SVD, "dtype"),
            (DenseCholesky, "dtype"),
            (GramCholesky, "dtype"),
            (GramEigh, "dtype"),
            (NormalCholesky, "dtype"),
        ]
    ]


def streamed() -> list[Entry]:
    parts = [(jg.Problem(apply, X[i : i + 2], jg.L2(Y[i : i + 2])), Y[i : i + 2]) for i in (0, 2)]
    problem = parts[0][0]
    twice = jg.Problem(lambda params, x: jnp.tile(apply(params, x), 2), X[:2], jg.L2(np.ones((2, 2))))
    chunks = {
        "tuple": Case(tuple(parts), False),
        "function": Case(lambda: iter(parts), False),
        "of other lengths": Case([*parts, (PROBLEM, Y)], False),
        "of other widths": Case([*parts, (twice, np.ones((2, 2)))], False),
        "empty": Case([], True),
        "empty function": Case(lambda: iter([]), True),
        "None": Case(None, True),
        "number": Case(1, True),
        "text": Case("chunks", True),
        "one problem": Case(problem, True),
        "one pair": Case(parts[0], True),
        "no pairs": Case([problem, problem], True),
        "of three": Case([(*parts[0], None)], True),
        "None in it": Case([None], True),
        "functions": Case([(apply, Y)], True),
        "a function of something": Case(lambda problem: parts, True),
        "a function of None": Case(lambda: None, True),
        "raises": Case(fails, True),
    }
    velocities = {f"velocity {name}": Case([(PROBLEM, case.value)], case.refused) for name, case in floats(Y).items()}
    # A function that cannot be called as it should has Python's own error.
    names = {"chunks": ("`chunks", "positional argument"), "params": ("`params", "`apply")}
    solver = {"QR": Case(QR(), True), "class": Case(CG, True), "text": Case("CG", True)}
    entries = []
    for name, own, once in (("", NormalCholesky(), False), (" by CG", CG(), True)):
        entries.append(
            Entry(
                f"streamed_lift{name}",
                lambda own=own, **a: streamed_lift(**({"solver": own} | a)),
                {"chunks": parts, "params": PARAMS},
                {
                    "chunks": chunks | velocities | {"iterator": Case(iter(parts), once)},
                    "params": params(),
                    "damping": number(zero=True),
                    "solver": solver,
                },
                names,
            )
        )
    return entries
