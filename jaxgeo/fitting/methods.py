"""Flows and optimizers by name."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import optax

from jaxgeo import optim
from jaxgeo._names import did_you_mean
from jaxgeo.flows import (
    AbstractFlow,
    AdaptedFlow,
    OverparametrizedFlow,
    RankAdaptiveFlow,
    StandardFlow,
    UnderparametrizedFlow,
)
from jaxgeo.linalg import Auto

Method = AbstractFlow | optax.GradientTransformation | optax.GradientTransformationExtraArgs

FLOWS: dict[str, Callable[[], AbstractFlow]] = {
    "adapted": AdaptedFlow,
    "overparametrized": OverparametrizedFlow,
    "underparametrized": UnderparametrizedFlow,
    "rank-adaptive": RankAdaptiveFlow,
    "standard": StandardFlow,
}


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with a name; `learning_rate` is its default, None if it takes no learning rate."""

    make: Callable[..., optax.GradientTransformation | optax.GradientTransformationExtraArgs]
    learning_rate: float | None = None


def smooth_to_exact(damping: float = 10.0) -> optax.GradientTransformationExtraArgs:
    """Levenberg–Marquardt that proceeds slowly from smooth functions of the inputs to exact fits, for early stopping.

    An update at most halves the damping, so one of the updates ends near the best place to stop.

    **Arguments:**

    - `damping`: damping of the first update, relative to trace(DDᵀ)/QN.
    """
    return optim.adapted_levenberg_marquardt(
        damping=optim.GainRatioDamping(initial=damping, decrease=2.0), solver=Auto()
    )


OPTIMIZERS = {
    "levenberg-marquardt": Optimizer(optim.adapted_levenberg_marquardt),
    "interpolation": Optimizer(optim.linear_interpolation),
    "adapted-momentum": Optimizer(optim.adapted_momentum, 0.1),
    "adapted-gradient-descent": Optimizer(optim.adapted_gradient_descent, 0.5),
    "adam": Optimizer(optax.adam, 1e-3),
    "sgd": Optimizer(optax.sgd, 1e-2),
    "lbfgs": Optimizer(optax.lbfgs),
}


def flow_named(name: str) -> AbstractFlow:
    """The flow of this name; otherwise raises `ValueError` with the most similar name."""
    if name not in FLOWS:
        raise ValueError(f"no flow {name!r}{did_you_mean(name, list(FLOWS))} There are: {', '.join(FLOWS)}.")
    return FLOWS[name]()


@functools.lru_cache(maxsize=64)
def optimizer_named(name: str, learning_rate: float | None = None) -> optax.GradientTransformation:
    """The optimizer of this name, by default with its usual learning rate.

    Equal arguments return the same object, because JAX compiles again for each new optax transformation.

    **Raises:** `ValueError` if there is no such optimizer, with the most similar name, or if the learning rate is not
    positive or not accepted.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"no optimizer {name!r}{did_you_mean(name, list(OPTIMIZERS))} There are: {', '.join(OPTIMIZERS)}."
        )
    chosen = OPTIMIZERS[name]
    if chosen.learning_rate is None:
        if learning_rate is not None:
            raise ValueError(f"the optimizer {name} chooses its own steps; leave the learning rate out.")
        return chosen.make()
    rate = chosen.learning_rate if learning_rate is None else learning_rate
    if not rate > 0:
        raise ValueError(f"the learning rate must be positive; got {rate}.")
    return chosen.make(learning_rate=rate)


def method_named(name: str) -> Method:
    """The flow or optimizer of this name; otherwise raises `ValueError` with the most similar name."""
    names = [*FLOWS, *OPTIMIZERS]
    if name not in names:
        raise ValueError(f"no `method` {name!r}{did_you_mean(name, names)} There are: {', '.join(names)}.")
    return flow_named(name) if name in FLOWS else optimizer_named(name)
