"""D, G = DDᵀ and the diagonal of G, each in one compiled program.

Computed operation by operation, each array of a new shape would need its own program. Compiling fifty of them takes ten
times as long as compiling one program with all of them.
"""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float

import jaxgeo as jg


class Matrices(NamedTuple):
    jacobian: Float[Array, "QN K"]
    gram: Float[Array, "QN QN"]
    diagonal: Float[Array, "*outputs"]


@eqx.filter_jit
def matrices(problem: jg.Problem, params: Any) -> Matrices:
    gram = problem.gram(params)
    return Matrices(gram.jacobian.as_matrix(), gram.as_matrix(), gram.diagonal())


@eqx.filter_jit
def jacobian_matrix(problem: jg.Problem, params: Any) -> Float[Array, "QN K"]:
    return problem.jacobian(params).as_matrix()


@eqx.filter_jit
def gram_matrix(gram: jg.linalg.Gram) -> Float[Array, "QN QN"]:
    return gram.as_matrix()
