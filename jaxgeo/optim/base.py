"""What all optimizers share: the extra arguments of their updates, and the linearisation."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxgeo._trainable import tell_of_frozen
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.measured import check_metric
from jaxgeo.linalg.widths import cast_like, cast_up, widened, widest
from jaxgeo.metrics import AbstractMetric, CostHessian
from jaxgeo.optim.problem_maker import ProblemMaker, like
from jaxgeo.problem import Problem


def chosen_metric(metric: AbstractMetric | None) -> AbstractMetric:
    """`CostHessian()` for None; raises `ValueError` unless it is an `AbstractMetric`."""
    if metric is None:
        return CostHessian()
    check_metric(metric)
    return metric


class AbstractTransformation(eqx.Module):
    """An optax transformation that turns each batch into a `Problem`, and its linearisation into a step.

    - `problems`: makes problems from batches.
    - `metric`: the metric on output space in which a step is steepest.
    """

    problems: ProblemMaker
    metric: AbstractMetric = eqx.field(converter=chosen_metric)

    @abc.abstractmethod
    def init(self, params: PyTree) -> Any:
        """The state before the first step: a named tuple with a `count`."""

    @abc.abstractmethod
    def step(self, updates: PyTree, state: Any, linear: Linearisation) -> tuple[PyTree, Any]:
        """The step of the trainable parameters, and the next state apart from its `count`."""

    def update(
        self,
        updates: PyTree | None,
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
        """optax's `update`, with the batch as extra arguments. It ignores all other extra arguments, as optax asks.

        `updates`, the gradients, may be None; the gradients of the batch are then computed if they are needed.
        """
        del extra_args
        if not isinstance(state, tuple):
            raise ValueError(
                f"`state` must be what `init` or the last `update` returned; got {type(state).__name__}. Restore a "
                "state from a file into the form of `tx.init(params)`: by "
                "`flax.serialization.from_state_dict(tx.init(params), saved)`, or Orbax's "
                "`StandardRestore(tx.init(params))`."
            )
        made, full = self.problems(params, full_params, problem, inputs, targets, weights)
        try:
            # A weak type would be lost in the update, and the next update would be compiled again.
            step, state = self._linearise_and_step(updates, state, cast_like(full, full), made)
        except (TypeError, ValueError) as error:
            # The usual loop of Equinox with optax passes a model stripped of its functions, which cannot be called.
            if "NoneType" in str(error):
                error.add_note(
                    "jaxgeo calls the network with the `params` of `update`. If you passed `eqx.filter(model, …)`, "
                    "whose activations are None, pass the model itself."
                )
            raise
        return like(params, params if updates is None else updates, step), state

    @eqx.filter_jit
    def _linearise_and_step(self, updates: PyTree, state: Any, params: PyTree, problem: Problem) -> tuple[PyTree, Any]:
        problem.check_samples(params)
        problem = self.regularised(problem, params, state)
        # All algebra uses one dtype; the results are cast back to the dtypes of the parameters and of the state.
        problem, wide = widened(problem, params)
        linear = Linearisation(problem, wide, self.metric)
        step, after = self.step(updates, cast_up(state, linear.outputs.dtype), linear)
        after = after._replace(count=jnp.asarray(optax.safe_increment(state.count)))
        return cast_like(params, linear.embed(step)), cast_like(state, after)

    def regularised(self, problem: Problem, params: PyTree, state: Any) -> Problem:
        """The problem together with the prior, if the objective has one."""
        del params, state
        return problem

    def first(self, params: PyTree) -> Any:
        """optax's `init`: the state before the first step. It warns of running statistics that stay frozen."""
        tell_of_frozen(params, self.problems.trainable)
        # Give each leaf its own buffer, so that the state can be donated.
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf, self.init(params))

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        # optax declares the `update` of every transformation without keyword arguments.
        return optax.GradientTransformationExtraArgs(self.first, self.update)  # pyright: ignore[reportArgumentType]


def dtype_of(trainable: PyTree) -> jnp.dtype:
    """The dtype of the numbers in a state: the widest of the trainable parameters, at least float32."""
    return widest(*(leaf.dtype for leaf in jax.tree.leaves(trainable)))
