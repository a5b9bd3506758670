"""Lifts and their solvers."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxgeo as jg
from input_matrix.cells import Case, Entry, entry, refused, works
from input_matrix.values import (
    BY_PARAMS,
    COUNT,
    INDEX,
    NOT_NEGATIVE,
    OPTIONAL_COUNT,
    PARAMS,
    POSITIVE,
    PROBLEM,
    SOLVERS,
    UNREAD,
    X,
    Y,
    apply,
    fails,
    floats,
    params,
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

CUTOFF = (
    refused(number=1e-8, None_=None, text="hard") | works(hard=HardCutoff(1e-8)) | {"class": Case(HardCutoff, True)}
)
DTYPE = works(
    type=jnp.float64, dtype=jnp.dtype("float64"), text="float64", float32=jnp.dtype("float32"), other_name="single"
) | refused(integer=jnp.dtype("int32"), half=jnp.dtype("float16"), no_dtype="float46", number=64)


def algebra() -> list[Entry]:
    solver = {"class": Case(GramCholesky, True)} | refused(text="cholesky") | works(None_=None)
    start = {"params": PARAMS, "velocity": Y}

    def by(kind: Any) -> Any:
        return lambda **a: jg.lift(PROBLEM, PARAMS, jnp.asarray(Y), kind(**a))

    def cut(kind: Any) -> Any:
        return by(lambda **a: SVD(kind(**a)))

    preconditioner = works(None_=None) | refused(rank=2) | {"class": Case(Nystrom, True)}
    memory = OPTIONAL_COUNT | works(NumPy_integer=np.int64(10**6))
    tail = {"max_decomposition": INDEX}
    few = {"rtol": 1e-6, "max_steps": 50}
    return [
        entry(
            "lift",
            lambda **a: jg.lift(PROBLEM, **a),
            start,
            named=BY_PARAMS,
            params=params(),
            velocity=floats(Y),
            damping=NOT_NEGATIVE,
            solver=solver,
        ),
        entry("CG", by(CG), few, rtol=POSITIVE, max_steps=COUNT, preconditioner=preconditioner),
        entry("LSMR", by(LSMR), few, rtol=POSITIVE, max_steps=OPTIONAL_COUNT),
        entry("Nystrom", Nystrom, {"rank": 2, "batch_size": 4}, rank=COUNT, batch_size=COUNT, seed=INDEX),
        entry("HardCutoff", cut(HardCutoff), rcond=POSITIVE),
        entry("SmoothCutoff", cut(SmoothCutoff), {"rcond": 1e-8, "width": 4.0}, rcond=POSITIVE, width=POSITIVE),
        entry("Auto", Auto, memory=OPTIONAL_COUNT, max_entries=INDEX, cutoff=CUTOFF),
        entry("NormalCholesky", NormalCholesky, chunk_size=COUNT, **tail),
        entry("GramCholesky", GramCholesky, refinements=INDEX, **tail),
        *(
            entry(kind.__name__, by(kind), cutoff=CUTOFF, dtype=DTYPE)
            for kind in (QR, SVD, DenseCholesky, GramCholesky, GramEigh, NormalCholesky)
        ),
        *streamed(),
        entry(
            "lift_gradient",
            lambda **a: lift_gradient(PROBLEM.jacobian(PARAMS), **a),
            {"gradient": PARAMS, "damping": None},
            gradient=tangent(),
            damping=NOT_NEGATIVE,
            solver=SOLVERS,
        ),
        entry("Gram", lambda memory: Gram(PROBLEM.jacobian(PARAMS), memory=memory).as_matrix(), memory=memory),
        entry("rank_record", lambda params: rank_record(0.0, params, PROBLEM), named=BY_PARAMS, params=UNREAD),
    ]


def streamed() -> list[Entry]:
    parts = [(jg.Problem(apply, X[i : i + 2], jg.L2(Y[i : i + 2])), Y[i : i + 2]) for i in (0, 2)]
    problem = parts[0][0]
    twice = jg.Problem(lambda params, x: jnp.tile(apply(params, x), 2), X[:2], jg.L2(np.ones((2, 2))))
    chunks = works(
        tuple=tuple(parts),
        function=lambda: iter(parts),
        of_other_lengths=[*parts, (PROBLEM, Y)],
        of_other_widths=[*parts, (twice, np.ones((2, 2)))],
    ) | refused(
        empty=[],
        empty_function=lambda: iter([]),
        None_=None,
        number=1,
        text="chunks",
        one_problem=problem,
        one_pair=parts[0],
        no_pairs=[problem, problem],
        of_three=[(*parts[0], None)],
        None_in_it=[None],
        functions=[(apply, Y)],
        a_function_of_something=lambda problem: parts,
        a_function_of_None=lambda: None,
        raises=fails,
    )
    chunks |= {f"velocity {name}": Case([(PROBLEM, case.value)], case.refused) for name, case in floats(Y).items()}
    # A function that cannot be called as it should has Python's own error.
    named = {"chunks": ("`chunks", "positional argument"), "params": ("`params", "`apply")}
    solver = {"class": Case(CG, True)} | refused(QR=QR(), text="CG")
    return [
        entry(
            f"streamed_lift{name}",
            streamed_lift,
            {"chunks": parts, "params": PARAMS, "solver": own},
            named=named,
            chunks=chunks | {"iterator": Case(iter(parts), once)},
            params=params(),
            damping=NOT_NEGATIVE,
            solver=solver,
        )
        for name, own, once in (("", NormalCholesky(), False), (" by CG", CG(), True))
    ]
