"""A preconditioner from a random sketch, for conjugate gradients on G + λ."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from jaxgeo._checks import check_count
from jaxgeo.linalg.precision import without_tf32


class Nystrom(eqx.Module):
    """A preconditioner for G + λ that is exact on the dominant eigenvectors of G, found by a random sketch of G.

    **Arguments:**

    - `rank`: the number of products with G that the sketch takes, and of columns of length QN that it holds.
    - `seed`: the seed of the random sketch.
    - `batch_size`: the number of products to compute at a time.
    """

    rank: int = eqx.field(static=True, default=64)
    seed: int = eqx.field(static=True, default=0)
    batch_size: int = eqx.field(static=True, default=16)

    def __check_init__(self):
        check_count("rank", self.rank)
        check_count("seed", self.seed, least=0)
        check_count("batch_size", self.batch_size)

    def __call__(self, gram: lx.AbstractLinearOperator, damping: Float[Array, ""]) -> "NystromInverse":
        """The preconditioner for G + `damping`."""
        shape, dtype = gram.out_structure().shape, gram.out_structure().dtype
        test = self.test(gram.out_size(), dtype)
        sketch = jax.lax.map(
            lambda column: gram.mv(column.reshape(shape)).reshape(-1),
            test.T,
            batch_size=min(self.batch_size, test.shape[1]),
        ).T
        return self.from_sketch(test, sketch, damping)

    def test(self, size: int, dtype: jnp.dtype) -> Float[Array, "n rank"]:
        """Random orthonormal columns."""
        shape = (size, min(self.rank, size))
        return jnp.linalg.qr(jax.random.normal(jax.random.key(self.seed), shape, dtype))[0]

    @without_tf32
    def from_sketch(
        self, test: Float[Array, "n rank"], sketch: Float[Array, "n rank"], damping: Float[Array, ""]
    ) -> "NystromInverse":
        """The preconditioner for G + `damping`, from `sketch`, the products of G with `test`."""
        # Adding round-off makes the core positive definite; the eigenvalues are corrected for it below.
        noise = float(jnp.finfo(sketch.dtype).eps) * len(sketch) ** 0.5 * jnp.linalg.norm(sketch)
        noise = jnp.where(noise > 0, noise, jnp.ones_like(noise))
        sketch = sketch + noise * test
        core = test.T @ sketch
        values, vectors = jnp.linalg.eigh((core + core.T) / 2)
        root = vectors / jnp.sqrt(jnp.maximum(values, noise / 2))[None, :]
        basis, singular, _ = jnp.linalg.svd(sketch @ root, full_matrices=False)
        values = jnp.maximum(singular**2 - noise, 0)
        damping = jnp.maximum(damping, noise)
        return NystromInverse(basis, (values[-1] + damping) / (values + damping))


class NystromInverse(eqx.Module):
    """(ℓ + λ) U(Λ + λ)⁻¹Uᵀ + 1 − UUᵀ, where ℓ is the smallest of the eigenvalues Λ."""

    basis: Float[Array, "n rank"]
    weights: Float[Array, " rank"]

    @without_tf32
    def __call__(self, rows: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        flat = rows.reshape(-1)
        return (flat + self.basis @ ((self.weights - 1) * (self.basis.T @ flat))).reshape(rows.shape)
