"""The Cauchy step of a damped lift: along its steepest descent in a metric on parameter space, to the lowest point."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo._sums import total
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.tangents import dot


def cauchy_step(
    jacobian: Jacobian, weights: PyTree, damping: Float[Array, ""], pulled: PyTree
) -> tuple[PyTree, Float[Array, "rows R"]]:
    """The multiple of W⁻¹Dᵀv that minimises |Dδ − v|² + λ δᵀWδ.

    The minimum over all δ is the damped lift W⁻¹Dᵀ(DW⁻¹Dᵀ + λ)⁻¹v, and the larger λ, the closer the two. The step
    takes one JVP, and nothing of the size of DDᵀ is formed.

    Reference: J. Nocedal, S. J. Wright, Numerical optimization, 2nd edition, Springer, 2006, section 4.1

    **Arguments:**

    - `weights`: the diagonal of W, positive, a pytree like the trainable parameters.
    - `damping`: λ, absolute.
    - `pulled`: Dᵀv.

    **Returns:** δ, and Dδ.
    """
    steepest = _divide(pulled, weights)
    image = jacobian.mv(steepest)
    # W times the steepest direction is Dᵀv, so one product serves the slope and the damping.
    slope = dot(pulled, steepest)
    energy = total(image**2) + damping * slope
    length = slope / jnp.where(energy > 0, energy, 1)
    return jax.tree.map(lambda leaf: length.astype(leaf.dtype) * leaf, steepest), length * image


def sampled_trace(jacobian: Jacobian, weights: PyTree, signs: Float[Array, "rows R"]) -> Float[Array, ""]:
    """An estimate of trace(DW⁻¹Dᵀ) by one VJP, unbiased if the signs are random.

    Reference: M. F. Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines, 1989, Communications in Statistics 18
    """
    rows = jacobian.T.mv(signs)
    return dot(rows, _divide(rows, weights))


def _divide(tree: PyTree, weights: PyTree) -> PyTree:
    return jax.tree.map(jnp.divide, tree, weights)
