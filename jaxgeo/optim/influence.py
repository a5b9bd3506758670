"""Directions of the parameters that the data do not fix, from the singular values of D of a step."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxgeo.linalg.covariance.columns import VAGUE
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.tangents import freeze, norm


@without_tf32
def unfixed_shares(linear: Linearisation, by: SingularValues) -> Float[Array, " K"]:
    """Each parameter's share in the directions that the data do not fix: Σ_i V_ik² over these directions, in [0, 1].

    A direction counts as not fixed if its singular value is round-off, or if it is at most 1e-6 times the largest and
    one standard error along it exceeds 1e6 times the parameters, as in `jaxgeo.posterior`. The shares sum to the number
    of these directions. A parameter without influence has a share of 1.
    """
    linear, by = freeze((linear, by))
    flat = ravel_pytree(linear.trainable)[0].astype(by.values.dtype)
    scaled = flat if by.scale is None else flat / by.scale
    sizes = jax.vmap(norm)(by.right * scaled[None])
    error = norm(linear.residual) / len(by.orthogonal) ** 0.5
    vague = (by.relative() <= VAGUE) & (VAGUE * error > by.values * sizes)
    lost = (by.relative() <= by.round_off) | vague
    return jnp.sum(jnp.where(lost[:, None], by.right**2, 0), axis=0)
