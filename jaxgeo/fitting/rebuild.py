"""Convert between the structure that the user passed and the structure that is trained."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxgeo._checks import as_array
from jaxgeo._trainable import path_name
from jaxgeo.outputs import Params


class Applied(eqx.Module):
    """Parameters and the function that applies them, as a model."""

    params: PyTree
    apply: Callable[[PyTree, PyTree], Array] = eqx.field(static=True)

    def __call__(self, x: PyTree) -> Array:
        return self.apply(self.params, x)


class Rebuild(eqx.Module):
    """Converts trainable parameters to the structure that the user passed, and back.

    - `trained`: which of the parameters are trained; None for all of them.
    """

    network: PyTree
    unwrap: bool
    trained: PyTree = None

    def __call__(self, params: Params) -> PyTree:
        trained = eqx.combine(params, self.network)
        return trained.params if self.unwrap else trained

    def own(self, params: Params) -> PyTree:
        """The parameters without the wrapper that `fit` added."""
        return params.params if self.unwrap else params

    def wrapped(self, tree: PyTree) -> PyTree:
        """Convert a pytree like the user's, or a prefix of it, to the structure of the parameters."""
        return Applied(tree, self.network.apply) if self.unwrap and not eqx.is_array_like(tree) else tree

    def params_of(self, name: str, model: PyTree, like: Params) -> Params:
        """The trainable parameters of another model; raises `ValueError` unless its structure is the same."""

        def cast(part: Any, value: Any) -> Any:
            if part is None:
                return None
            array = as_array(name, value)
            if array.shape != part.shape:
                raise ValueError(f"an array has shape {array.shape} instead of {part.shape}")
            return array.astype(part.dtype)

        whole = Applied(model, self.network.apply) if self.unwrap else model
        try:
            return jax.tree.map(cast, like, whole, is_leaf=lambda leaf: leaf is None)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{name}` must have the structure of `model`: {error}.") from error

    def named(self, params: Params, which: Bool[np.ndarray, " K"]) -> tuple[str, ...]:
        """Names for some of the trainable numbers, by their path in the user's structure: leaves or entries."""
        params = params if self.trained is None else eqx.filter(params, self.trained)
        found, first = [], 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.own(params)):
            name, chosen = path_name(path), which[first : first + leaf.size].reshape(leaf.shape)
            first += leaf.size
            if name and chosen.all():
                found.append(name)
            else:
                found += [f"{name}[{', '.join(map(str, index))}]" for index in np.argwhere(chosen)]
        return tuple(found)
