"""D, G = DDᵀ, the diagonal of G and Dᵀv, each in one compiled program.

Computed operation by operation, each array of a new shape would need its own program. Compiling fifty of them takes ten
times as long as compiling one program with all of them.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import jaxgeo as jg
from jaxgeo.linalg.gram.held import held_factors
from jaxgeo.linalg.gram.layout import make_layout


class Matrices(NamedTuple):
    jacobian: Float[Array, "QN K"]
    gram: Float[Array, "QN QN"]
    diagonal: Float[Array, "*outputs"]
    velocity: Float[Array, " QN"]
    pulled: Float[Array, " K"]

    def check_product(self) -> None:
        """Dᵀv by the factors that G is assembled from, for every route of a leaf, against that with the dense D."""
        dense, velocity = np.asarray(self.jacobian), np.asarray(self.velocity)
        most = (np.abs(dense).T @ np.abs(velocity)).max()
        np.testing.assert_allclose(self.pulled, dense.T @ velocity, rtol=0, atol=1e-13 * most)


@eqx.filter_jit
def matrices(problem: jg.Problem, params: Any) -> Matrices:
    gram = problem.gram(params)
    matrix = gram.as_matrix()
    velocity = jnp.cos(jnp.arange(len(matrix), dtype=matrix.dtype))
    pulled = held_factors(gram.jacobian, make_layout(gram.jacobian)).pull(velocity)
    return Matrices(gram.jacobian.as_matrix(), matrix, gram.diagonal(), velocity, ravel_pytree(pulled)[0])


@eqx.filter_jit
def jacobian_matrix(problem: jg.Problem, params: Any) -> Float[Array, "QN K"]:
    return problem.jacobian(params).as_matrix()


@eqx.filter_jit
def gram_matrix(gram: jg.linalg.Gram) -> Float[Array, "QN QN"]:
    return gram.as_matrix()
