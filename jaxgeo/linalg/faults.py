"""Find the samples and parameters for which D is not finite although the outputs are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxgeo._trainable import path_name
from jaxgeo.linalg.jacobian import sample_rows
from jaxgeo.outputs import AbstractProblem, Params


def check_derivatives(problem: AbstractProblem, params: Params) -> None:
    """Raise `ValueError`, with the message of `find_fault`, if D is not finite."""
    fault = find_fault(problem, params)
    if fault:
        raise ValueError(fault)


def find_fault(problem: AbstractProblem, params: Params) -> str:
    """A message that says which derivatives of the outputs are NaN or infinite.

    It is empty if all are finite, or if the outputs are not finite. All of D is held meanwhile.
    """
    outputs, samples, leaves = jax.device_get(_finite(problem, params))
    if not outputs or all(part.all() for part in samples):
        return ""
    trainable, _ = problem.partition(params)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trainable)]
    bad = [f"`{name or 'params'}`" for name, fine in zip(names, leaves, strict=True) if not fine]
    index, part = next((index, part) for index, part in enumerate(samples) if not part.all())
    first = int(np.argmin(part))
    block = f" of block {index}" if len(samples) > 1 else ""
    count = sum(int((~part).sum()) for part in samples)
    return (
        f"the derivatives of the outputs by {', '.join(bad)} are NaN or infinite for {count} of "
        f"{sum(map(len, samples))} samples, the first at index {first}{block}, though the outputs are finite. This "
        "happens at 0 with a length |x| or with `jnp.where(x > 0, jnp.sqrt(x), 0)`: guard the argument of the root "
        "or quotient itself, as in `jnp.sqrt(jnp.where(x > 0, x, 1))`, or start elsewhere."
    )


@eqx.filter_jit
def _finite(
    problem: AbstractProblem, params: Params
) -> tuple[Bool[Array, ""], list[Bool[Array, " n"]], list[Bool[Array, ""]]]:
    """Whether the outputs, the derivatives of each sample of each block, and those by each leaf are finite."""
    trainable, frozen = problem.partition(params)
    sizes = np.cumsum([leaf.size for leaf in jax.tree.leaves(trainable)])[:-1].tolist()
    samples, leaves = [], []
    for block in problem.blocks:
        fine = jnp.isfinite(sample_rows(block, trainable, frozen)).reshape(block.num_samples, -1, _size(trainable))
        samples.append(jnp.all(fine, axis=(1, 2)))
        leaves.append([jnp.all(part) for part in jnp.split(fine, sizes, axis=2)])
    outputs = jnp.all(jnp.isfinite(problem.outputs(params)))
    return outputs, samples, [jnp.all(jnp.stack(parts)) for parts in zip(*leaves, strict=True)]


def _size(trainable: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(trainable))
