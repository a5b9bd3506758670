"""Optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgeo as jg
from input_matrix.cells import Case, Entry
from input_matrix.values import (
    PARAMS,
    X,
    Y,
    apply,
    callable_rate,
    called,
    count,
    floats,
    networks,
    number,
    optional,
    params,
    solvers,
    switch,
)


def optimizers() -> list[Entry]:
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    transformations = {
        "adapted_levenberg_marquardt": jg.optim.adapted_levenberg_marquardt(apply),
        "linear_interpolation": jg.optim.linear_interpolation(apply),
        "adapted_momentum": jg.optim.adapted_momentum(apply, learning_rate=0.5),
        "adapted_gradient_descent": jg.optim.adapted_gradient_descent(apply, learning_rate=0.5),
        "scale_by_adapted_metric": jg.optim.scale_by_adapted_metric(apply),
    }
    entries = []
    for name, tx in transformations.items():
        state = tx.init(PARAMS)

        def update(tx: Any = tx, state: Any = state, **arguments: Any) -> Any:
            updates, _ = tx.update(grads, state, arguments.pop("params"), **arguments)
            return updates

        unusual = {key: params()[key] for key in ("None", "text", "no arrays", "integers")}
        fed = {"params": PARAMS, "inputs": X, "targets": Y}
        cases: dict[str, Any] = {
            "params": unusual,
            "inputs": {k: v for k, v in floats(X).items() if k not in ("float32", "integers", "bool", "read-only")},
            "targets": {k: v for k, v in floats(Y).items() if k not in ("float32", "bool")},
            "weights": optional(floats(np.ones(4))),
        }
        entries.append(
            Entry(
                f"{name}.update",
                update,
                fed,
                cases,
                {"inputs": ("inputs", "targets", "apply"), "params": ("params", "inputs")},
            )
        )
        entries.append(
            Entry(
                f"{name}.init",
                lambda params, tx=tx: tx.init(params),
                {"params": PARAMS},
                {
                    "params": {
                        k: v
                        for k, v in params().items()
                        if k not in ("wrong shape", "NaN", "inf", "complex", "text leaf")
                    }
                },
            )
        )
    rate = callable_rate(number())

    def step(apply: Any) -> Any:
        tx = jg.optim.adapted_levenberg_marquardt(apply)
        return tx.update(grads, tx.init(PARAMS), PARAMS, inputs=X, targets=Y)[0]

    # A function that cannot be called as it should has Python's own error here, which names the function.
    unusual_networks = {k: v for k, v in networks().items() if k not in ("takes one argument", "branches on values")}
    entries += [
        Entry(
            "a network in update", step, {"apply": apply}, {"apply": unusual_networks}, {"apply": ("apply", "targets")}
        ),
        Entry(
            "adapted_gradient_descent",
            lambda **a: jg.optim.adapted_gradient_descent(apply, **a),
            {"learning_rate": 0.5},
            {
                "learning_rate": rate | {"zero": Case(0.0, False)},
                "damping": callable_rate(number(zero=True)),
                "max_growth": number(infinite=True),
            },
        ),
        Entry(
            "adapted_momentum",
            lambda **a: jg.optim.adapted_momentum(apply, **a),
            {"learning_rate": 0.5},
            {
                "learning_rate": rate | {"zero": Case(0.0, False)},
                "momentum": callable_rate(number(zero=True)),
                "damping": callable_rate(number(zero=True)),
                "norm_cap": number(infinite=True),
                "max_growth": number(infinite=True),
            },
        ),
        Entry(
            "scale_by_adapted_metric",
            lambda **a: jg.optim.scale_by_adapted_metric(apply, **a),
            {},
            {"damping": callable_rate(number(zero=True))},
        ),
        Entry(
            "adapted_levenberg_marquardt",
            lambda **a: jg.optim.adapted_levenberg_marquardt(apply, **a),
            {},
            {"acceleration": optional(number(zero=True))},
        ),
        Entry(
            "linear_interpolation",
            lambda **a: jg.optim.linear_interpolation(apply, **a),
            {},
            {"num_steps": count(), "max_growth": number(infinite=True), "corrections": count(least=0)},
        ),
        Entry(
            "GainRatioDamping",
            jg.optim.GainRatioDamping,
            {},
            {name: number() for name in ("initial", "error", "decrease", "increase", "minimum", "maximum")}
            | {name: count(least=0) for name in ("corrections", "halvings")},
        ),
        Entry("TrustRegion", jg.optim.TrustRegion, {}, {"factor": number()}),
        Entry("ColumnScaling", jg.optim.ColumnScaling, {}, {"max_params": count(least=0)}),
        Entry("RankCutoff", jg.optim.RankCutoff, {}, {"initial": number()}),
    ]
    return entries + parts()


def parts() -> list[Entry]:
    """What an optimizer is put together of."""
    metrics = {"class": Case(jg.metrics.CostHessian, True), "text": Case("euclidean", True), "1": Case(1, True)}
    costs = {"instance": Case(jg.L2(Y), True), "text": Case("l2", True), "class": Case(jg.L2, False)}
    makers = {
        "adapted_levenberg_marquardt": jg.optim.adapted_levenberg_marquardt,
        "linear_interpolation": jg.optim.linear_interpolation,
        "adapted_momentum": lambda **a: jg.optim.adapted_momentum(learning_rate=0.5, **a),
        "adapted_gradient_descent": lambda **a: jg.optim.adapted_gradient_descent(learning_rate=0.5, **a),
        "scale_by_adapted_metric": jg.optim.scale_by_adapted_metric,
    }
    kinds = {
        "damping": jg.optim.GainRatioDamping,
        "trust_region": jg.optim.TrustRegion,
        "scaling": jg.optim.ColumnScaling,
        "cutoff": jg.optim.RankCutoff,
    }
    return [
        Entry(
            "adapted_levenberg_marquardt of",
            jg.optim.adapted_levenberg_marquardt,
            {},
            {
                name: {"own": Case(kind(), False), "class": Case(kind, True), "number": Case(1.0, True)}
                for name, kind in kinds.items()
            }
            | {"linesearch": called() | {"of optax": Case(optax.scale_by_backtracking_linesearch(5), False)}},
        ),
        *(
            Entry(
                f"{name} of",
                lambda maker=maker, **a: maker(**a),
                {},
                {"solver": solvers(), "metric": metrics, "cost": costs, "apply": called(), "per_sample": switch()},
            )
            for name, maker in makers.items()
        ),
    ]
