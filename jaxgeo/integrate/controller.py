"""Step sizes controlled by the error in output space."""

from collections.abc import Callable

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from jaxgeo._fields import NOT_NEGATIVE, POSITIVE, Checked
from jaxgeo._sums import largest
from jaxgeo.integrate.field import trainable_of
from jaxgeo.problem import Problem

Scalar = Float[Array, ""] | float


def default_rtol(dtype: jnp.dtype) -> float:
    """The default tolerance of a step, relative to the deviation: 1e-6 in float64, 1e-3 in float32."""
    return 1e-6 if float(jnp.finfo(dtype).eps) < 1e-10 else 1e-3


class OutputController(Checked, dfx.AbstractAdaptiveStepSizeController):
    """A PID controller that measures the error of a step in the outputs, where the law of the flow holds.

    If θ̂ is the error estimate of the ODE solver, the error of a step is D θ̂. For every output it must stay below
    `atol + rtol · |deviation|`, where the deviation of an L2 cost is x − y and |·| is the root mean square. So a
    relative tolerance bounds how far any output leaves its law per step, however small the cost. Errors in θ would have
    no natural scale: many parameters move freely along ker D.

    **Arguments:**

    - `rtol`, `atol`: tolerances, relative to the deviation and in units of the outputs.
    - `pid`: the controller that chooses the steps; its own tolerances and norm are replaced.

    **Raises:** `ValueError` unless `rtol` > 0 and `atol` ≥ 0.
    """

    rtol: Scalar = eqx.field(metadata=POSITIVE)
    atol: Scalar = eqx.field(metadata=NOT_NEGATIVE)
    norm: Callable[[PyTree], Scalar]
    pid: dfx.PIDController

    def __init__(self, rtol: Scalar, atol: Scalar, pid: dfx.PIDController | None = None):
        self.rtol = rtol
        self.atol = atol
        self.norm = optx.rms_norm
        if pid is None:
            pid = dfx.PIDController(rtol, atol)
        self.pid = eqx.tree_at(lambda pid: (pid.rtol, pid.atol), pid, (rtol, atol))

    def wrap(self, direction: int | Array) -> "OutputController":
        return eqx.tree_at(lambda self: self.pid, self, self.pid.wrap(direction))

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        problem: Problem = args
        if dt0 is None:
            # A hundredth of the time in which the deviation would vanish at its present speed. For a flow in output
            # space that time is N, which is also the default if there is nothing to measure.
            velocity = func(terms, t0, y0, args)
            outputs, speed = jax.jvp(problem.outputs, (trainable_of(y0),), (trainable_of(velocity),))
            dt0 = 0.01 * self.norm(problem.loss.deviation(outputs)) / self.norm(speed)
            usable = jnp.isfinite(dt0) & (dt0 > 0)
            dt0 = jnp.minimum(jnp.where(usable, dt0, 0.01 * problem.num_samples), t1 - t0)
        size = self.norm(y0)
        return self.pid.init(terms, t0, t1, size, dt0, args, func, error_order)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        if y_error is None:
            raise ValueError(
                "this ODE solver does not estimate its error, which `OutputController` needs; pass "
                "`stepsize_controller=diffrax.ConstantStepSize()` with `dt0`, or a solver such as `diffrax.Tsit5()`."
            )
        problem: Problem = args
        before = self.norm(problem.loss.deviation(problem.outputs(trainable_of(y0))))
        outputs, error = jax.jvp(problem.outputs, (trainable_of(y1_candidate),), (trainable_of(y_error),))
        after = self.norm(problem.loss.deviation(outputs))
        size = largest(error)
        # A failed lift arrives as a velocity of NaN or infinity; an infinite error makes the solver retry the step.
        size = jnp.where(jnp.isfinite(size) & jnp.isfinite(after), size, jnp.inf)
        return self.pid.adapt_step_size(t0, t1, before, after, args, size, error_order, controller_state)
