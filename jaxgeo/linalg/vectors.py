"""Small problems as functions of one vector: with D held as a matrix, their programs take less time to compile."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgeo.outputs import AbstractProblem, AnyProblem, Params
from jaxgeo.prior import has_prior

# Up to this many entries, 1 MiB in float64, products with D are fast, and for a small problem compilation takes longer
# than hundreds of steps.
MOST_ENTRIES = 2**17


class OfVector(eqx.Module):
    """A network as a function of the vector of all its trainable numbers.

    - `apply`: the network, a function of all parameters.
    - `frozen`: the parameters that are not trained.
    - `treedef`, `shapes`: structure of the trainable part and shapes of its leaves.
    """

    apply: Callable[[PyTree, PyTree], Array]
    frozen: PyTree
    treedef: jax.tree_util.PyTreeDef = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, vector: Float[Array, " K"], sample: PyTree) -> Array:
        return self.apply(eqx.combine(self.unravel(vector), self.frozen), sample)

    def unravel(self, vector: Float[Array, " K"]) -> PyTree:
        """The trainable part as a pytree."""
        # Otherwise XLA would fuse the slices with what is before and after them, and compile the network again and
        # again where one program would do.
        whole, leaves, start = jax.lax.optimization_barrier(vector), [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(whole[start : start + size].reshape(shape))
            start += size
        return jax.tree.unflatten(self.treedef, jax.lax.optimization_barrier(leaves))


def is_small(problem: AbstractProblem, params: Params) -> bool:
    """Whether D is small enough to be held; it needs separate samples on one device, one dtype and no prior."""
    # The rows of coupled samples would each take a derivative of the whole batch.
    apart = problem.per_sample and all(block.sharding is None for block in problem.blocks)
    if has_prior(problem) or not apart:
        return False
    trainable, _ = problem.partition(params)
    alike = len({leaf.dtype for leaf in jax.tree.leaves(trainable)}) == 1
    return alike and problem.num_rows(params) * problem.num_params(params) <= MOST_ENTRIES


def of_vector(problem: AnyProblem, params: Params) -> tuple[AnyProblem, Float[Array, " K"], OfVector]:
    """The same problem as a function of one vector, this vector, and the first of its networks."""
    trainable, frozen = problem.partition(params)
    leaves, treedef = jax.tree.flatten(trainable)
    shapes = tuple(leaf.shape for leaf in leaves)
    networks = [OfVector(block.apply, frozen, treedef, shapes) for block in problem.blocks]
    problem = eqx.tree_at(
        lambda problem: [*(block.apply for block in problem.blocks), problem.trainable],
        problem,
        [*networks, eqx.is_array],
    )
    vector = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    return problem, jax.lax.optimization_barrier(vector), networks[0]
