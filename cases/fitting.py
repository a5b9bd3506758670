"""The classical curve fits by Levenberg–Marquardt, ours and MINPACK's, and how many digits are right."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
from scipy.optimize import OptimizeResult, least_squares

import jaxgeo as jg
from cases.curve_fits import CurveFit, reference


def scanned(tx, problem, params, steps):
    """Parameters after `steps` updates, and the report of each, from one scan."""

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params, problem=problem)
            return (optax.apply_updates(params, updates), state), state.info

        return jax.lax.scan(body, (params, tx.init(params)), None, length=steps)

    (params, _), infos = train(params)
    return params, infos


class Ended(NamedTuple):
    """How a fit went: where it ended and why, and ½Σ(f − y)² before each update and at the end."""

    params: np.ndarray
    ending: jg.optim.Ending
    costs: list[float]

    @property
    def late(self) -> int:
        """Updates after the one from which the cost is within 1e-10 of the last."""
        final = np.asarray(self.costs) <= self.costs[-1] * (1 + 1e-10)
        return len(final) - 1 - int(np.argmax(final))


def fit_to_the_end(case: CurveFit, starts: Sequence[Sequence[float]], most: int = 1000) -> list[Ended]:
    """From each start, until the optimizer says that there is nothing more to do."""
    return list(fits_to_the_end(case, starts, most))


def fits_to_the_end(case: CurveFit, starts: Sequence[Sequence[float]], most: int = 1000) -> Iterator[Ended]:
    """The same one after the other, by one program."""
    # Residuals need not be one a point.
    y = jnp.asarray(case.y)
    problem = jg.Problem(lambda b, _: case.model(jnp, b, case.x), jnp.zeros_like(y), jg.L2(y), per_sample=False)
    tx = jg.optim.adapted_levenberg_marquardt()

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params, problem=problem)
        return optax.apply_updates(params, updates), state

    for start in starts:
        params = jnp.asarray(start, float)
        state, costs = tx.init(params), [float(problem.cost(params)) * len(case.y)]
        while len(costs) <= most and not int(state.ends.ending):
            params, state = step(params, state)
            costs.append(float(state.info.new_cost) * len(case.y))
        yield Ended(np.asarray(params), jg.optim.Ending(int(state.ends.ending)), costs)


def fit(case: CurveFit, steps: int, dtype=jnp.float64):
    """Parameters after `steps` updates, and the report of each."""
    problem = jg.Problem(
        lambda b, x: case.model(jnp, b, x), jnp.asarray(case.x, dtype), jg.L2(jnp.asarray(case.y, dtype))
    )
    start = jnp.asarray(case.start, dtype)
    params, infos = scanned(jg.optim.adapted_levenberg_marquardt(), problem, start, steps)
    return np.asarray(params), infos


def digits(params, case: CurveFit) -> float:
    """Correct digits of the worst parameter, up to the sign of a width; 17 for all."""
    errors = np.abs(np.abs(np.asarray(params, float) / reference(case)) - 1)
    return float(-np.log10(errors.max() + 1e-17))


def scipys(case: CurveFit, starts: Sequence[Sequence[float]], method: str, most: int = 1000) -> list[OptimizeResult]:
    """The result of `scipy.optimize.least_squares` from each start, with tolerances of round-off."""
    residual = jax.jit(lambda b: case.model(jnp, b, case.x) - case.y)
    jacobian = jax.jit(jax.jacfwd(residual))
    tolerances = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": most, "x_scale": "jac"}
    with np.errstate(all="ignore"):
        return [
            least_squares(
                lambda b: np.asarray(residual(b)), start, lambda b: np.asarray(jacobian(b)), method=method, **tolerances
            )
            for start in starts
        ]


def optimistixs(case: CurveFit, starts: Sequence[Sequence[float]], most: int = 1000) -> list[tuple[np.ndarray, int]]:
    """The result and number of steps of `optimistix.LevenbergMarquardt` from each start, with round-off tolerances."""
    solver = optx.LevenbergMarquardt(rtol=1e-14, atol=1e-30)

    @jax.jit
    def solve(start):
        found = optx.least_squares(
            lambda b, _: case.model(jnp, b, case.x) - case.y, solver, start, max_steps=most, throw=False
        )
        return found.value, found.stats["num_steps"]

    with jax.numpy_dtype_promotion("standard"):
        found = [solve(jnp.asarray(start, float)) for start in starts]
    return [(np.asarray(params), int(steps)) for params, steps in found]


def minpack(case: CurveFit) -> np.ndarray:
    x, y = jnp.asarray(case.x), jnp.asarray(case.y)
    residual = jax.jit(lambda b: case.model(jnp, b, x) - y)
    jacobian = jax.jit(jax.jacfwd(residual))
    tolerances = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 2000}
    with np.errstate(all="ignore"):
        return least_squares(
            lambda b: np.asarray(residual(b)), case.start, lambda b: np.asarray(jacobian(b)), method="lm", **tolerances
        ).x
