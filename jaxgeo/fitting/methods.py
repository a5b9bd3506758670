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
    """An optimizer that has a name; `learning_rate` is its default, None for one that takes none."""

    make: Callable[..., optax.GradientTransformation | optax.GradientTransformationExtraArgs]
    learning_rate: float | None = None


def smooth_to_exact(damping: float = 10.0) -> optax.GradientTransformationExtraArgs:
    """Levenberg–Marquardt from smooth functions of the inputs to exact ones, for early stopping.

    An update at most halves the damping, so one of them ends near the best place to stop.

    **Arguments:**

    - `damping`: of the first update, relative to trace(DDᵀ)/QN.
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
    """The flow of this name; `ValueError` with the nearest one if there is none."""
    if name not in FLOWS:
        raise ValueError(f"no flow {name!r}{did_you_mean(name, list(FLOWS))} There are: {', '.join(FLOWS)}.")
    return FLOWS[name]()


@functools.lru_cache(maxsize=64)
def optimizer_named(name: str, learning_rate: float | None = None) -> optax.GradientTransformation:
    """The optimizer of this name, with its usual learning rate by default.

    Always the same for the same arguments: JAX takes one of optax that is made anew for another, and compiles for it.

    **Raises:** `ValueError` with the nearest name if there is none, or on a learning rate that is not positive or not
    taken.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"no optimizer {name!r}{did_you_mean(name, list(OPTIMIZERS))} There are: {', '.join(OPTIMIZERS)}."
        )
    chosen = OPTIMIZERS[name]
    if chosen.learning_rate is None:
        if learning_rate is not None:
            raise ValueError(f"the optimizer {name} chooses its steps itself; leave the learning rate out.")
        return chosen.make()
    rate = chosen.learning_rate if learning_rate is None else learning_rate
    if not rate > 0:
        raise ValueError(f"the learning rate must be positive; got {rate}.")
    return chosen.make(learning_rate=rate)


def method_named(name: str) -> Method:
    """The flow or optimizer of this name; `ValueError` with the nearest one if there is none."""
    names = [*FLOWS, *OPTIMIZERS]
    if name not in names:
        raise ValueError(f"no `method` {name!r}{did_you_mean(name, names)} There are: {', '.join(names)}.")
    return flow_named(name) if name in FLOWS else optimizer_named(name)
