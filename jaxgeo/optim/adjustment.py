"""Changes to a step before it is tried: geodesic acceleration, and an optax line search."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxgeo._checks import MOST, check_kind, check_number
from jaxgeo.linalg.one_way import one_ways
from jaxgeo.linalg.tangents import forward_only
from jaxgeo.optim.attempt import Attempt
from jaxgeo.optim.way import Proposal

SEARCH_IN_REVERSE = (
    "`adapted_levenberg_marquardt` with a `linesearch` can only be differentiated in forward mode, because the number "
    "of steps in the search is not known in advance. Use `jax.jvp` or `jax.jacfwd`, or leave `linesearch` out: steps "
    "that do not lower the cost are still halved, and both modes work."
)


class Adjustment(eqx.Module):
    """Applies the requested geodesic acceleration and line search; the state is that of the line search.

    - `acceleration`: add a/2 to the step v if 2|a/2| ≤ `acceleration` |v|; None to add nothing.
    - `linesearch`: an optax transformation that then rescales the step; None to skip it.
    """

    acceleration: float | Float[Array, ""] | None
    linesearch: optax.GradientTransformationExtraArgs | None

    def __check_init__(self):
        if self.acceleration is not None:
            check_number("acceleration", self.acceleration, least=0, most=MOST)
        if self.linesearch is not None:
            check_kind("linesearch", self.linesearch, optax.GradientTransformation, "a `GradientTransformation`")

    def init(self, trainable: PyTree) -> PyTree:
        """The state before the first step."""
        return () if self.linesearch is None else self.linesearch.init(trainable)

    def __call__(self, proposal: Proposal, state: PyTree) -> tuple[Attempt, PyTree]:
        """Return the step to try instead of the proposed one, and the next state."""
        attempt, lift = proposal.attempt, proposal.lift
        accelerates, searches = lift is not None and self.acceleration is not None, proposal.searched
        if not accelerates and (self.linesearch is None or not searches):
            return attempt, state
        linear, step, correct = attempt.linear, attempt.step, attempt.correct
        if lift is not None and self.acceleration is not None:
            # Corrections would undo the acceleration.
            step, correct = _accelerated(attempt, lift, self.acceleration), None
        if self.linesearch is not None and searches:

            def cost(trainable: PyTree) -> Float[Array, ""]:
                return linear.problem.cost(eqx.combine(linear.restrict(trainable), linear.frozen))

            step, gradient, params = map(linear.as_tree, (step, linear.gradient, linear.trainable))
            found = self.linesearch.update(step, state, params, value=linear.cost, grad=gradient, value_fn=cost)
            step, state = forward_only(found, SEARCH_IN_REVERSE)
            step = linear.restrict(step)
        return Attempt(linear, step, correct, attempt.most), state


def _accelerated(
    attempt: Attempt, lift: Callable[[Float[Array, "rows R"]], PyTree], most: float | Float[Array, ""]
) -> PyTree:
    """v + a/2, or v unless the acceleration is small compared with v."""
    velocity = attempt.step
    if any(network.reverse for network in one_ways(attempt.linear.problem.blocks)):
        raise ValueError(
            "`acceleration` needs a second derivative in forward mode, but the network can only be differentiated in "
            "reverse mode; leave `acceleration` out, or write the network's custom rule with `jax.custom_jvp`."
        )
    half = lift(-0.5 * attempt.linear.bend(velocity))
    small = 2 * optax.tree.norm(half) <= most * optax.tree.norm(velocity)
    return jax.tree.map(lambda v, a: jnp.where(small, v + a, v), velocity, half)
