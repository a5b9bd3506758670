"""What the optimizers have in common: the extra arguments of their updates."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jaxgeo._trainable import tell_of_statistics
from jaxgeo.linalg.measured import check_metric
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.optim.source import Batch, Source, like
from jaxgeo.problem import Problem


class AbstractTransformation(eqx.Module):
    """An optax transformation that makes a `Problem` of each batch."""

    @property
    @abc.abstractmethod
    def problems(self) -> Source:
        """How problems are made from batches."""

    @abc.abstractmethod
    def init(self, params: PyTree) -> Any:
        """The state before the first step."""

    @abc.abstractmethod
    def step(self, updates: PyTree, state: Any, params: PyTree, problem: Problem) -> tuple[PyTree, Any]:
        """The update for the full parameters, and the next state."""

    def update(
        self,
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        problem: Problem | None = None,
        inputs: PyTree = None,
        targets: PyTree = None,
        weights: PyTree = None,
        full_params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, Any]:
        """optax's `update` with the batch as extra arguments; others are ignored, as optax asks."""
        del extra_args
        this, full = self.problems(params, Batch(problem, inputs, targets, weights, full_params))
        try:
            step, state = self.step(updates, state, full, this)
        except TypeError as error:
            # The usual loop of Equinox with optax passes a model without its functions, and those are what is called.
            if "NoneType" in str(error):
                error.add_note(
                    "jaxgeo calls the network with the `params` of `update`. If these are `eqx.filter(model, …)`, "
                    "which has None for activations, pass the model itself."
                )
            raise
        return like(params, updates, step), state

    def first(self, params: PyTree) -> Any:
        """optax's `init`: the state before the first step; running statistics that are frozen are told of."""
        tell_of_statistics(params, self.problems.trainable)
        return self.init(params)

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        # optax types the `update` of all transformations as one without keyword arguments.
        return optax.GradientTransformationExtraArgs(self.first, self.update)  # pyright: ignore[reportArgumentType]


def chosen_metric(metric: AbstractMetric | None) -> AbstractMetric:
    """`CostHessian()` for None; raises `ValueError` unless it is an `AbstractMetric`."""
    if metric is None:
        return CostHessian()
    check_metric(metric)
    return metric


def zero_count() -> Int[Array, ""]:
    """The number of the first step."""
    return jnp.zeros((), jnp.int32)


def next_count(count: Int[Array, ""]) -> Int[Array, ""]:
    """One more, up to the largest integer."""
    return jnp.asarray(optax.safe_increment(count))
