"""Lifts and their solvers."""

from typing import Any

import jax.numpy as jnp

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import PARAMS, PROBLEM, Y, count, floats, number, optional, params
from jaxgeo.linalg import CG, LSMR, SVD, Auto, GramCholesky, HardCutoff, NormalCholesky, Nystrom, SmoothCutoff


def algebra() -> list[Entry]:
    velocity = floats(Y)
    solver = {"None": Case(None, False), "class": Case(GramCholesky, True), "text": Case("cholesky", True)}
    some = number()

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
        Entry("Nystrom", Nystrom, {"rank": 2, "batch_size": 4}, {"rank": count(), "batch_size": count()}),
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
            {"memory": optional(count()), "max_entries": count(least=0)},
        ),
        Entry("NormalCholesky", NormalCholesky, {"chunk_size": 2}, {"chunk_size": count()}),
        Entry("GramCholesky", GramCholesky, {"refinements": 2}, {"refinements": count(least=0)}),
    ]
