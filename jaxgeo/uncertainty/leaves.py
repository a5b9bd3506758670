"""Leaves of parameters: their names, the names of their entries, and their columns of D."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Int, PyTree

from jaxgeo._trainable import path_name
from jaxgeo.outputs import Params


def leaf_names(params: Params) -> PyTree:
    """A pytree like `params` with the name of each leaf. Pass it as `groups` to give each leaf its own precision.

    ```python
    >>> import jax.numpy as jnp
    >>> from jaxgeo.uncertainty import leaf_names
    >>> leaf_names({"rate": jnp.array(1.0), "size": jnp.ones(3)})
    {'rate': 'rate', 'size': 'size'}

    ```
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)


def entry_names(trainable: PyTree) -> list[str]:
    """The name of each trainable number, in the order of the columns of D."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(trainable):
        name = path_name(path)
        names += [name + (f"[{', '.join(map(str, index))}]" if index else "") for index in np.ndindex(*leaf.shape)]
    return names


def positions(trainable: PyTree, where: Callable[[PyTree], PyTree] | None) -> Int[np.ndarray, " k"]:
    """The columns of D that belong to the leaves that `where` selects, in its order.

    **Raises:** `ValueError` if `where` selects anything but trainable leaves.
    """
    sizes = [leaf.size for leaf in jax.tree.leaves(trainable)]
    if where is None:
        return np.arange(sum(sizes))
    offsets = iter(np.concatenate([[0], np.cumsum(sizes)])[:-1])
    numbered = jax.tree.map(lambda leaf: next(offsets) + np.arange(leaf.size).reshape(leaf.shape), trainable)
    chosen = [np.ravel(leaf) for leaf in jax.tree.leaves(where(numbered))]
    if not chosen:
        raise ValueError("`where` must select trainable leaves of the parameters; it selected none.")
    return np.concatenate(chosen).astype(int)
