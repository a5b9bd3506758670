"""Problems."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType

import jaxgeo as jg
from input_matrix.cells import Case, Entry, entry, refused, without, works
from input_matrix.values import (
    BY_PARAMS,
    MODEL,
    NOT_NEGATIVE,
    OPTIONAL_COUNT,
    PARAMS,
    POSITIVE,
    PROBLEM,
    X,
    Y,
    apply,
    floats,
    models,
    networks,
    params,
)


def problems() -> list[Entry]:
    def supervised(**arguments: Any) -> Any:
        problem, params = jg.supervised(**arguments)
        return problem.cost(params)

    def problem(**arguments: Any) -> Any:
        problem = jg.Problem(**arguments)
        problem.check(PARAMS)
        return problem.cost(PARAMS)

    def blocks(points: Any = X, weight: Any = 1.0) -> Any:
        problem = jg.residual_problem([(apply, points, weight)])
        problem.check(PARAMS)
        return problem.cost(PARAMS)

    either = {
        "inputs": ("inputs", "targets", "apply", "model"),
        "targets": ("targets", "inputs"),
        "apply": ("apply", "targets"),
        "model": ("model", "params", "apply", "targets"),
        "trainable": ("trainable", "params"),
        "points": ("points", "inputs", "apply"),
        "weight": ("blocks[0][2]",),
    }
    inputs = floats(X) | works(bool=X > 0, integers=np.round(X).astype(int))
    points = works(one_sample=X[:1], another_length=np.concatenate([X, X]), more_axes=np.ones((4, 2, 2, 3)))
    data = {"inputs": X, "targets": Y}
    return [
        entry(
            "supervised",
            supervised,
            {"model": MODEL, **data},
            named=either,
            model=models(),
            inputs=inputs,
            targets=floats(Y),
        ),
        entry(
            "supervised of one sample",
            supervised,
            {"model": MODEL, "inputs": X[:1]},
            targets=works(one_output=Y[0], float32=Y[:1].astype(np.float32)),
        ),
        entry(
            "supervised with trainable",
            supervised,
            {"model": MODEL, **data},
            named=either,
            trainable=refused(None_=None, False_=False, text="all", number=1.0),
        ),
        entry(
            "Problem",
            problem,
            {"apply": apply, "inputs": X, "cost": jg.L2(Y)},
            named=either,
            apply=networks(),
            inputs=inputs,
            cost=refused(None_=None, array=Y, text="l2") | {"class": Case(jg.L2, True)},
        ),
        entry("residual_problem", blocks, named=either, points=inputs | points, weight=POSITIVE),
        entry(
            "residual_problem of blocks",
            jg.residual_problem,
            blocks=refused(none=[], None_=None, pairs=[(apply, X)], text="blocks", no_function=[(None, X, 1.0)]),
        ),
        entry("Problem.check", PROBLEM.check, named=BY_PARAMS, params=params()),
        entry("Problem.restrict", lambda params: PROBLEM.restrict(params)[1], params=without(params(), *CHECKED)),
        entry(
            "Problem.plan",
            lambda **a: PROBLEM.plan(**a).choice.reason,
            {"params": PARAMS},
            named={"params": ("`params", "`apply")},
            params=without(params(), "NaN", "inf"),
            damping=NOT_NEGATIVE,
            memory=OPTIONAL_COUNT,
        ),
        sharding(),
    ]


# What `Problem.check` finds and a partition does not.
CHECKED = ("NaN", "inf", "text leaf", "wrong shape")


def sharding() -> Entry:
    def mesh(kind: AxisType, *names: str) -> Any:
        return jax.make_mesh((1,) * len(names), names, axis_types=(kind,) * len(names))

    usual = mesh(AxisType.Auto, "samples")
    coupled = jg.Problem(lambda params, x: x @ params, X, jg.L2(Y[:, 0]), per_sample=False)
    none = refused(None_=None, number=1, text="samples", devices=jax.devices())
    return entry(
        "shard_samples",
        lambda **a: jg.shard_samples(**a).cost(PARAMS),
        {"problem": PROBLEM, "mesh": usual},
        named={"problem": ("`problem", "per_sample"), "mesh": ("`mesh`", "`axis`")},
        problem=refused(None_=None, function=apply, coupled=coupled) | works(sharded=jg.shard_samples(PROBLEM, usual)),
        mesh=none
        | works(two_axes=mesh(AxisType.Auto, "wide", "samples"))
        | refused(no_such_axis=mesh(AxisType.Auto, "wide"), explicit=mesh(AxisType.Explicit, "samples")),
        axis=refused(unknown="wide", None_=None, number=0, list=["samples"]),
    )
