"""A damped lift by a few products with D, in a metric on parameter space; for damping so large that a few suffice."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian


def approximate_lift(
    jacobian: Jacobian, weights: PyTree, damping: Float[Array, ""], pulled: PyTree, steps: int
) -> tuple[PyTree, Float[Array, "rows R"]]:
    """`steps` conjugate-gradient steps towards the δ that minimises |Dδ − v|² + λ δᵀWδ, from δ = 0.

    This δ is W⁻¹Dᵀ(DW⁻¹Dᵀ + λ)⁻¹v. Each step takes one JVP and, except for the last, one VJP; nothing of the size of
    DDᵀ is formed. W is the preconditioner.

    Reference: J. Martens, Deep learning via Hessian-free optimization, 2010, ICML

    **Arguments:**

    - `weights`: the diagonal of W, positive, a pytree like the trainable parameters.
    - `damping`: λ, absolute.
    - `pulled`: Dᵀv.

    **Returns:** δ, and Dδ.
    """
    solution = jax.tree.map(jnp.zeros_like, pulled)
    moved = jnp.zeros_like(jacobian.outputs)
    left, ahead = pulled, _divide(pulled, weights)
    size = _dot(left, ahead)
    for step in range(steps):
        image = jacobian.mv(ahead)
        curved = jax.tree.map(lambda weight, leaf: damping.astype(leaf.dtype) * weight * leaf, weights, ahead)
        energy = jnp.sum(image**2) + _dot(ahead, curved)
        length = size / jnp.where(energy > 0, energy, 1)
        solution, moved = _add(solution, length, ahead), moved + length * image
        if step < steps - 1:
            left = _add(left, -length, jax.tree.map(jnp.add, jacobian.T.mv(image), curved))
            divided = _divide(left, weights)
            after = _dot(left, divided)
            ahead, size = _add(divided, after / jnp.where(size > 0, size, 1), ahead), after
    return solution, moved


def sampled_trace(jacobian: Jacobian, weights: PyTree, signs: Float[Array, "rows R"]) -> Float[Array, ""]:
    """An estimate of trace(DW⁻¹Dᵀ) by one VJP, unbiased if the signs are random.

    Reference: M. F. Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines, 1989, Communications in Statistics 18
    """
    rows = jacobian.T.mv(signs)
    return _dot(rows, _divide(rows, weights))


def _dot(first: PyTree, second: PyTree) -> Float[Array, ""]:
    products = jax.tree.map(lambda one, other: jnp.sum(one * other), first, second)
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def _divide(tree: PyTree, weights: PyTree) -> PyTree:
    return jax.tree.map(jnp.divide, tree, weights)


def _add(tree: PyTree, factor: Float[Array, ""], other: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, more: leaf + factor.astype(leaf.dtype) * more, tree, other)
