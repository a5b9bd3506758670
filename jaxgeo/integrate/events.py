"""When an integration stops: at a given cost, or where the cost no longer falls."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.flows import AbstractFlow


class CostReached(eqx.Module):
    """log(C/`cost_tol`), which crosses zero at the wanted moment and is nearly linear in s."""

    frozen: PyTree
    cost_tol: Float[Array, ""]

    def __call__(self, t, y, args, **kwargs) -> Float[Array, ""]:
        del t, kwargs
        cost = args.cost(eqx.combine(y, self.frozen))
        # A cost of exactly zero would give −inf, and NaN in the derivative.
        value = jnp.log(jnp.maximum(cost, jnp.finfo(cost.dtype).tiny) / self.cost_tol)
        # diffrax pairs it with a Python float, which is float64 under x64 even for float32 parameters.
        return value.astype(jnp.result_type(float))


class Stalled(eqx.Module):
    """Whether the cost falls slower than `rate` times as fast as by its law, which is −∂ₛC = 2C/N.

    Near a critical point with C > 0, that of (5.7) for example, the flow has nowhere to go, while the steps of an
    explicit solver stay as short as its stability wants them.
    """

    flow: AbstractFlow
    frozen: PyTree
    rate: float

    def __call__(self, t, y, args, **kwargs) -> Bool[Array, ""]:
        del kwargs
        jacobian = args.jacobian(eqx.combine(y, self.frozen))
        outputs = jacobian.outputs
        speed = jnp.sum(args.loss.gradient(outputs) * jacobian.mv(self.flow.velocity(t, jacobian)))
        return -speed * args.num_samples <= 2 * self.rate * args.loss(outputs)


class BracketState(eqx.Module):
    """The interval known to hold the crossing."""

    lower: Float[Array, ""]
    upper: Float[Array, ""]


class DownwardCrossing(optx.AbstractRootFinder):
    """Bisection for the time at which an event's value falls to zero, inside the step that ends below zero.

    Unlike Newton's method it cannot leave the step, nor is it troubled by a cost that is zero, or nothing but
    round-off, at the end of the step; each of its some 50 evaluations is one pass through the network. A pytree
    of values, one for each event of which all but one are zero, is crossed where their sum is.
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
