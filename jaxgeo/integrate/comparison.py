"""The comparison flow in output space, integrated as a reference for a lifted flow."""

from typing import Any

import diffrax as dfx
import jax.numpy as jnp
import optimistix as optx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, check_count, check_number, check_positive
from jaxgeo.flows import OutputFlow
from jaxgeo.integrate.times import check_save_at
from jaxgeo.metrics import AbstractMetric, Euclidean
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem


def solve_output_flow(
    problem: Problem,
    params: Params,
    save_at: ArrayLike,
    *,
    metric: AbstractMetric | None = None,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    max_steps: int = 4096,
) -> Float[Array, "times N Q"]:
    """Outputs along ∂ₛx = −g⁻¹∇ₓC from x[θ], for any cost and metric: where a lifted flow of full rank should be.

    Paper: (1.11), and Section 2.3 for a metric

    This ODE on QN numbers uses the network only for its start. For an L2 cost and the Euclidean metric,
    `theory.outputs_at` is its closed form.

    **Arguments:**

    - `params`: θ at the start, s = 0.
    - `save_at`: increasing flow times.
    - `metric`: g on output space; Euclidean by default.
    - `rtol`, `atol`: tolerances of diffrax's PID controller, for the largest error of an output in a step.
    - `max_steps`: the number of steps after which to give up.

    **Raises:** `ValueError` if times or tolerances are unusable; `RuntimeError` (from diffrax) after `max_steps`.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> problem = jg.Problem(lambda a, x: a * x, jnp.array([2.0]), jg.L2(jnp.array([0.0])))
    >>> outputs = jg.solve_output_flow(problem, jnp.array(0.5), jnp.array([1.0]))
    >>> round(float(outputs[0, 0, 0]), 6)
    0.367879

    ```
    """
    check_save_at(save_at)
    check_positive("rtol", rtol)
    check_number("atol", atol, least=0, most=MOST)
    check_count("max_steps", max_steps)
    problem.check(params)
    outputs = problem.outputs(params)
    flow: Any = OutputFlow(Euclidean() if metric is None else metric)
    times = jnp.asarray(save_at, outputs.dtype)
    zero = jnp.zeros((), outputs.dtype)
    solution = dfx.diffeqsolve(
        dfx.ODETerm(flow),
        dfx.Dopri8(),
        t0=zero,
        t1=times[-1],
        dt0=jnp.asarray(1e-3 * problem.num_samples, outputs.dtype),
        y0=outputs,
        args=problem,
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.ClipStepSizeController(
            dfx.PIDController(rtol, atol, norm=optx.max_norm), step_ts=times
        ),
        max_steps=int(max_steps),
    )
    assert solution.ys is not None
    return solution.ys
