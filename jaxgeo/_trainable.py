"""Which leaves of a pytree are trained: those the user chose, and by default no running statistics."""

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxgeo._checks import is_trainable_leaf

# The collection in which Flax's Linen keeps the running means and variances of its normalisations.
COLLECTION = "batch_stats"

APART = (
    "If a network keeps its parameters apart, as those of Linen and Haiku do, pass the parameters as the model, and as "
    "`apply` a function `apply(params, x_j)`: `module.apply` of Linen, of NNX `lambda weights, x: nnx.merge(graph, "
    "weights, rest, copy=True)(x)`, or of Haiku `lambda params, x: network.apply(params, None, x)`."
)


def path_name(path: Sequence[Any]) -> str:
    """The name of a leaf as one writes it, such as network.layers[0].weight; empty for a pytree that is one leaf.

    ```python
    >>> import jax
    >>> from jaxgeo._trainable import path_name
    >>> leaves = jax.tree_util.tree_leaves_with_path({"rate": 1.0, "layers": [2.0], "a b": 3.0})
    >>> [path_name(path) for path, _ in leaves]
    ["['a b']", 'layers[0]', 'rate']

    ```
    """
    return written(jax.tree_util.keystr(tuple(path)))


def written(name: str) -> str:
    """A name by JAX, such as ['network'].bias, as one writes it."""
    return re.sub(r"\['([^\W\d]\w*)'\]", r".\1", name).removeprefix(".")


def statistics_in(tree: PyTree) -> PyTree:
    """A pytree of bools like `tree`: which leaves are running statistics, such as those of batch normalisation.

    These are the leaves under the name `batch_stats` (Linen), of a `BatchStat` (NNX), and in Equinox's `State`.
    """

    def mark(path: tuple[Any, ...], node: PyTree) -> PyTree:
        found = _holds_statistics(node) or any(_name(key) == COLLECTION for key in path)
        return jax.tree.map(lambda _: found, node)

    return jax.tree_util.tree_map_with_path(mark, tree, is_leaf=_holds_statistics)


def _holds_statistics(node: Any) -> bool:
    if isinstance(node, eqx.nn.State | eqx.nn.StateIndex):
        return True
    # Flax is recognised by name, so it need not be installed.
    return any(kind.__name__ == "BatchStat" and kind.__module__.startswith("flax.") for kind in type(node).__mro__)


def _name(key: Any) -> Any:
    match key:
        case jax.tree_util.DictKey() | jax.tree_util.FlattenedIndexKey():
            return key.key
        case jax.tree_util.GetAttrKey():
            return key.name
        case _:
            return None


def selected(params: PyTree, is_trainable: PyTree) -> tuple[PyTree, PyTree]:
    """(trainable, frozen) as from `eqx.partition`; the default, `is_trainable_leaf`, leaves out running statistics."""
    if is_trainable is not is_trainable_leaf:
        return eqx.partition(params, is_trainable)
    statistics = statistics_in(params)
    chosen = jax.tree.map(lambda leaf, found: is_trainable_leaf(leaf) and not found, params, statistics)
    return eqx.partition(params, chosen)


def tell_of_frozen(params: PyTree, is_trainable: PyTree) -> None:
    """Warn if `params` hold running statistics or Python numbers, and the user has not chosen what to train."""
    if is_trainable is not is_trainable_leaf:
        return
    leaves = jax.tree_util.tree_leaves_with_path(params)
    # Modules have numbers as options, dictionaries and sequences have not.
    plain = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)
    numbers = [path for path, leaf in leaves if isinstance(leaf, float) and all(isinstance(key, plain) for key in path)]
    # Without any array, an error says more.
    if numbers and any(is_trainable_leaf(leaf) for _, leaf in leaves):
        name = path_name(numbers[0])
        warnings.warn(
            f"`{name}` of the parameters is a Python number, which is not trained. Write `jnp.asarray(…)` to train it. "
            "To avoid this warning, pass it apart from the parameters, or pass `trainable=`.",
            stacklevel=3,
        )
    marks = jax.tree.leaves(statistics_in(params))
    frozen = [(path, leaf) for (path, leaf), found in zip(leaves, marks, strict=True) if found and eqx.is_array(leaf)]
    floating = [(path, leaf) for path, leaf in frozen if is_trainable_leaf(leaf)]
    if not floating:
        return
    first, more = path_name(floating[0][0]), len(floating) - 1
    warnings.warn(
        f"the parameters hold running statistics, `{first}`{f' and {more} more' * bool(more)}, "
        f"{sum(leaf.size for _, leaf in floating)} numbers in all. They are frozen, since statistics are not "
        "trained. To avoid this warning, pass the parameters alone and let `apply` add the statistics; to choose "
        "otherwise, pass `trainable=`.",
        stacklevel=3,
    )


def partition(params: PyTree, is_trainable: PyTree) -> tuple[PyTree, PyTree]:
    """Split `params` as `Problem.partition` does, by a function leaf → bool or a pytree prefix of bools."""
    try:
        trainable, frozen = selected(params, is_trainable)
    except ValueError as error:
        raise ValueError(
            f"`trainable` must be a function leaf → bool, or a pytree of bools shaped like `params` or its upper "
            f"part: {error}"
        ) from error
    if not jax.tree.leaves(trainable):
        raise nothing_to_train(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(trainable):
        if not is_trainable_leaf(leaf):
            raise ValueError(
                f"{_in_params(path)} is marked trainable but is not a real floating-point "
                f"array: got {leaf.dtype if eqx.is_array(leaf) else type(leaf).__name__}. Freeze it through "
                "`trainable`."
            )
    for path, leaf in jax.tree_util.tree_leaves_with_path(frozen):
        if is_trainable is is_trainable_leaf and eqx.is_array(leaf) and jnp.iscomplexobj(leaf):
            raise ValueError(
                f"{_in_params(path)} is complex ({leaf.dtype}); split it into real and "
                "imaginary parts, or freeze it on purpose through `trainable`."
            )
    return trainable, frozen


def _in_params(path: Sequence[Any]) -> str:
    return f"`{path_name(path)}` of `params`" if path else "`params`"


def nothing_to_train(params: PyTree) -> ValueError:
    """The error of parameters without a trainable leaf."""
    kinds = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params) if eqx.is_array(leaf)})
    found, advice = f"only dtypes {', '.join(kinds)}", "split complex parameters into real and imaginary parts."
    if not kinds:
        found, advice = "no arrays", f"wrap Python numbers in `jnp.asarray`. {APART}"
    return ValueError(
        f"`params` has no trainable leaf: only real floating-point arrays are trained; got {found} (after freezing, if "
        f"any). Convert integers with `.astype(float)`; {advice}"
    )


class Restricted(eqx.Module):
    """A network as a function of the trainable part of its parameters alone.

    - `apply`: the network, a function of all parameters.
    - `frozen`: the parameters that are not trained.
    - `trainable`: the choice that split them off.
    """

    apply: Callable[[PyTree, PyTree], Array]
    frozen: PyTree
    trainable: PyTree

    def __call__(self, params: PyTree, sample: PyTree) -> Array:
        return self.apply(eqx.combine(params, self.frozen), sample)
