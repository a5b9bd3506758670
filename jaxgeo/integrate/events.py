"""When an integration stops: at a given cost, when the cost no longer falls, or at a threshold of the geometry."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo._fields import COUNT, POSITIVE, Checked
from jaxgeo._sums import total
from jaxgeo.flows import AbstractFlow
from jaxgeo.integrate.field import trainable_of
from jaxgeo.linalg.rank import rank_record
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem

Threshold = Callable[[Float[Array, ""], Params, Problem], Float[Array, ""] | Bool[Array, ""]]


class GradientBelow(Checked):
    """log(|∇θC| / `tol`) with ∇θC = Dᵀ∇ₓC, which takes one VJP and no lift.

    Paper: (1.18)

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2), jg.L2(jnp.ones(2)))
    >>> event = jg.GradientBelow(1e-4)
    >>> sol = jg.solve_flow(problem, jg.AdaptedFlow(), jnp.zeros(2), s1=100.0, events=[event])
    >>> bool(sol.s[-1] < 100), int(sol.event)
    (True, 0)

    ```
    """

    tol: float = eqx.field(metadata=POSITIVE)

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> Float[Array, ""]:
        del s
        jacobian = problem.jacobian(params)
        gradient = jacobian.pull(problem.loss.gradient(jacobian.outputs))
        return _log_ratio(optx.two_norm(gradient), self.tol)


class TrappingBelow(Checked):
    """log of |Dᵀ∇ₓC| / |∇ₓC| over `ratio`: the standard flow is trapped where the former is small.

    Paper: (3.4)
    """

    ratio: float = eqx.field(metadata=POSITIVE)

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> Float[Array, ""]:
        del s
        jacobian = problem.jacobian(params)
        aim = problem.loss.gradient(jacobian.outputs)
        size = optx.two_norm(aim)
        # In units of |∇ₓC|, because its square may underflow.
        unit = jnp.where(size > 0, size, 1)
        return _log_ratio(optx.two_norm(jacobian.pull(aim / unit)), self.ratio)


class RankBelow(Checked):
    """Whether rank(D) is below `rank`, checked at the end of each step: a rank crosses no threshold continuously.

    Paper: (4.1)
    """

    rank: int = eqx.field(metadata=COUNT)

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> Bool[Array, ""]:
        return rank_record(s, params, problem).rank < self.rank


class ConditionAbove(Checked):
    """log(`limit` / cond(D)), for the singular values that count towards the rank.

    `cond(D)` is the square root of cond(DDᵀ).
    """

    limit: float = eqx.field(metadata=POSITIVE)

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> Float[Array, ""]:
        return _log_ratio(rank_record(s, params, problem).smallest, 1 / self.limit)


class Crossed(eqx.Module):
    """A threshold, as an event of diffrax."""

    threshold: Threshold

    def __call__(self, t, y, args, **kwargs) -> Float[Array, ""] | Bool[Array, ""]:
        del kwargs
        value = self._value(t, y, args)
        # diffrax pairs the value with a Python float, which is float64 under x64 even for float32 parameters.
        default = jnp.result_type(float)
        if value.dtype != jnp.bool_:
            return value.astype(default)
        # It pairs a boolean with a time of the default dtype, which fails for float32 times under x64: return ±1 then.
        return jnp.where(value, -jnp.ones((), default), jnp.ones((), default)) if is_narrow(t) else value

    def _value(self, s: Float[Array, ""], state: PyTree, problem: Problem) -> Float[Array, ""] | Bool[Array, ""]:
        return self.threshold(s, trainable_of(state), problem)

    def holds(self, s: Float[Array, ""], trainable: PyTree, problem: Problem) -> Bool[Array, ""]:
        """Whether the threshold is crossed already; diffrax only detects changes along a step."""
        value = self._value(s, trainable, problem)
        return value if value.dtype == jnp.bool_ else value <= 0


def is_narrow(s: Float[Array, ""]) -> bool:
    """Whether times have another dtype than a Python float would, as with float32 parameters under x64."""
    return s.dtype != jnp.result_type(float)


def _log_ratio(value: Float[Array, ""], threshold: float | Float[Array, ""]) -> Float[Array, ""]:
    """log(value/threshold), which crosses zero at the threshold, almost linearly in s; finite if the value is zero."""
    return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny) / jnp.asarray(threshold, value.dtype))


class CostReached(eqx.Module):
    """log(C/`cost_tol`), as a threshold."""

    cost_tol: Float[Array, ""]

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> Float[Array, ""]:
        del s
        return _log_ratio(problem.cost(params), self.cost_tol)


class Stalled(eqx.Module):
    """Whether the cost falls more slowly than `rate` times its law, −∂ₛC = 2C/N.

    Near a critical point with C > 0, such as that of (5.7), the flow stands still, but stability keeps the steps of an
    explicit solver short. The test takes one velocity per step.
    """

    flow: AbstractFlow
    rate: float | Float[Array, ""]

    def __call__(self, s: Float[Array, ""], params: Params, problem: Problem) -> Bool[Array, ""]:
        jacobian = problem.jacobian(params)
        outputs = jacobian.outputs
        speed = total(problem.loss.gradient(outputs) * jacobian.mv(self.flow.velocity(s, jacobian)))
        return -speed * problem.num_samples <= 2 * self.rate * problem.loss(outputs)


class BracketState(eqx.Module):
    """The interval known to hold the crossing."""

    lower: Float[Array, ""]
    upper: Float[Array, ""]


class DownwardCrossing(optx.AbstractRootFinder):
    """Bisection for the time at which an event's value falls to zero, inside the step that ends below zero.

    Unlike Newton's method it cannot leave the step, and a cost that is zero or pure round-off at the end of the step
    does no harm. It takes about 50 evaluations, each one pass through the network. diffrax passes a pytree with a value
    for each event, all but one zero, so the crossing is that of their sum.
    """

    rtol: float
    atol: float = 0.0
    norm: Callable[[PyTree], Float[Array, ""]] = optx.max_norm

    def init(self, fn, y, args, options: dict[str, Any], f_struct, aux_struct, tags) -> BracketState:
        del fn, args, f_struct, aux_struct, tags
        return BracketState(jnp.asarray(options["lower"], y.dtype), jnp.asarray(options["upper"], y.dtype))

    def step(self, fn, y, args, options, state: BracketState, tags):
        del y, options, tags
        middle = state.lower + (state.upper - state.lower) / 2
        values, aux = fn(middle, args)
        above = sum(jax.tree.leaves(values)) > 0
        state = BracketState(jnp.where(above, middle, state.lower), jnp.where(above, state.upper, middle))
        return state.upper, state, aux

    def terminate(self, fn, y, args, options, state: BracketState, tags):
        del fn, y, args, options, tags
        width = state.upper - state.lower
        return width <= self.atol + self.rtol * jnp.abs(state.upper), optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        del fn, args, options, state, tags, result
        return y, aux, {}
