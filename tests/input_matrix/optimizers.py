"""Optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgeo as jg
from input_matrix.cells import Case, Entry, entry, only, refused, without, works
from input_matrix.values import (
    COUNT,
    DAMPING,
    FUNCTION,
    INDEX,
    NOT_NEGATIVE,
    PARAMS,
    POSITIVE,
    RATE,
    SOLVERS,
    X,
    Y,
    apply,
    floats,
    networks,
    number,
    params,
)
from jaxgeo import optim

GRADS = jax.tree.map(jnp.zeros_like, PARAMS)
GROWTH = number(infinite=True)
MAKERS = {
    "adapted_levenberg_marquardt": optim.adapted_levenberg_marquardt,
    "linear_interpolation": optim.linear_interpolation,
    "adapted_momentum": lambda learning_rate=0.5, **a: optim.adapted_momentum(learning_rate=learning_rate, **a),
    "adapted_gradient_descent": lambda learning_rate=0.5, **a: optim.adapted_gradient_descent(
        learning_rate=learning_rate, **a
    ),
    "scale_by_adapted_metric": optim.scale_by_adapted_metric,
}
# The arguments that each has besides those that all have.
RATES = {"learning_rate": RATE | works(zero=0.0), "damping": DAMPING, "max_growth": GROWTH}
OWN: dict[str, dict[str, dict[str, Case]]] = {
    "adapted_levenberg_marquardt": {"acceleration": NOT_NEGATIVE},
    "linear_interpolation": {"num_steps": COUNT, "max_growth": GROWTH, "corrections": INDEX},
    "adapted_momentum": RATES | {"momentum": DAMPING, "max_change": GROWTH},
    "adapted_gradient_descent": RATES,
    "scale_by_adapted_metric": {"damping": DAMPING},
}
PARTS = {
    "damping": optim.GainRatioDamping,
    "trust_region": optim.TrustRegion,
    "scaling": optim.ColumnScaling,
    "cutoff": optim.RankCutoff,
    "ends": optim.Ends,
}


def optimizers() -> list[Entry]:
    def made(name: str, **arguments: Any) -> Any:
        return MAKERS[name](**({"apply": apply} | arguments))

    def step(apply: Any) -> Any:
        tx = optim.adapted_levenberg_marquardt(apply)
        return tx.update(GRADS, tx.init(PARAMS), PARAMS, inputs=X, targets=Y)[0]

    every = {
        "solver": SOLVERS,
        "metric": {"class": Case(jg.metrics.CostHessian, True), "1": Case(1, True)} | refused(text="euclidean"),
        "cost": refused(instance=jg.L2(Y), text="l2") | {"class": Case(jg.L2, False)},
        "apply": FUNCTION,
    }
    parts = {
        name: works(own=kind()) | refused(number=1.0) | {"class": Case(kind, True)} for name, kind in PARTS.items()
    }
    linesearch = FUNCTION | works(of_optax=optax.scale_by_backtracking_linesearch(5))
    # A function that cannot be called as it should has Python's own error here, which names the function.
    unusual = without(networks(), "takes one argument", "branches on values")
    damping = dict.fromkeys(("initial", "error", "decrease", "increase", "minimum", "maximum"), POSITIVE)
    damping |= dict.fromkeys(("corrections", "halvings"), INDEX)
    tolerances = dict.fromkeys(("gtol", "xtol", "ftol"), NOT_NEGATIVE)
    return [
        *(each for name in MAKERS for each in updates(name)),
        entry("a network in update", step, named={"apply": ("apply", "targets")}, apply=unusual),
        *(entry(name, made, {"name": name}, **cases) for name, cases in OWN.items()),
        *(entry(f"{name} of", maker, **every) for name, maker in MAKERS.items()),
        entry("adapted_levenberg_marquardt of", optim.adapted_levenberg_marquardt, linesearch=linesearch, **parts),
        entry("GainRatioDamping", optim.GainRatioDamping, **damping),
        entry(
            "NextBatchDamping", optim.NextBatchDamping, **dict.fromkeys(("initial", "most", "least", "error"), POSITIVE)
        ),
        entry(
            "TrustRegion", optim.TrustRegion, factor=POSITIVE, acceleration=NOT_NEGATIVE, tries=COUNT, retreats=INDEX
        ),
        entry("ColumnScaling", optim.ColumnScaling, max_params=INDEX, influence=NOT_NEGATIVE),
        entry("Ends", optim.Ends, **tolerances, small=COUNT, rejected=COUNT),
        entry("RankCutoff", optim.RankCutoff, initial=POSITIVE),
    ]


def updates(name: str) -> list[Entry]:
    tx = MAKERS[name](apply=apply)
    state = tx.init(PARAMS)

    def update(params: Any = PARAMS, **data: Any) -> Any:
        return tx.update(GRADS, state, params, **({"inputs": X, "targets": Y} | data))[0]

    return [
        entry(
            f"{name}.update",
            update,
            named={"inputs": ("inputs", "targets", "apply"), "params": ("params", "inputs")},
            params=only(params(), "None", "text", "no arrays", "integers"),
            inputs=without(floats(X), "float32", "integers", "bool", "read-only"),
            targets=without(floats(Y), "float32", "bool"),
            weights=without(floats(np.ones(4)), "None"),
        ),
        entry(
            f"{name}.init",
            lambda params: tx.init(params),
            params=without(params(), "wrong shape", "NaN", "inf", "complex", "text leaf"),
        ),
    ]
