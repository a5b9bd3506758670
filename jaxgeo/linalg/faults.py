"""Where D is not finite although the outputs are: which samples, and which parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxgeo.linalg.jacobian import sample_rows
from jaxgeo.outputs import AbstractProblem, Params


def check_derivatives(problem: AbstractProblem, params: Params) -> None:
    """Raise `ValueError` if D is not finite, with the words of `find_fault`."""
    fault = find_fault(problem, params)
    if fault:
        raise ValueError(fault)


def find_fault(problem: AbstractProblem, params: Params) -> str:
    """Which derivatives of the outputs are NaN or infinite, in words.

    Empty if all are finite, or the outputs are not. D is held as a whole meanwhile.
    """
    outputs, samples, leaves = jax.device_get(_finite(problem, params))
    if not outputs or all(part.all() for part in samples):
        return ""
    trainable, _ = problem.partition(params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(trainable)]
    bad = [f"`params{name}`" for name, fine in zip(names, leaves, strict=True) if not fine]
    index, part = next((index, part) for index, part in enumerate(samples) if not part.all())
    first = int(np.argmin(part))
    block = f" of block {index}" if len(samples) > 1 else ""
    count = sum(int((~part).sum()) for part in samples)
    return (
        f"the derivatives of the outputs by {', '.join(bad)} are NaN or infinite for {count} of "
        f"{sum(map(len, samples))} samples, the first at index {first}{block}, though the outputs are finite. So is "
        "the derivative of a length |x| at 0, or of `jnp.where(x > 0, jnp.sqrt(x), 0)`: guard the argument of the root "
        "or quotient itself, as in `jnp.sqrt(jnp.where(x > 0, x, 1))`, or start elsewhere."
    )


@eqx.filter_jit
def _finite(
    problem: AbstractProblem, params: Params
) -> tuple[Bool[Array, ""], list[Bool[Array, " n"]], list[Bool[Array, ""]]]:
    """Whether the outputs are finite; the derivatives of each sample of each block; those by each leaf."""
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
