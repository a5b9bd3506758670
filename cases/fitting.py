"""The classical curve fits by Levenberg–Marquardt, ours and MINPACK's, and how many digits are right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import least_squares

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


def minpack(case: CurveFit) -> np.ndarray:
    x, y = jnp.asarray(case.x), jnp.asarray(case.y)
    residual = jax.jit(lambda b: case.model(jnp, b, x) - y)
    jacobian = jax.jit(jax.jacfwd(residual))
    tolerances = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 2000}
    with np.errstate(all="ignore"):
        return least_squares(
            lambda b: np.asarray(residual(b)), case.start, lambda b: np.asarray(jacobian(b)), method="lm", **tolerances
        ).x
