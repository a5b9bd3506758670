"""Running statistics of a model, which are not trained but follow the training from update to update."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import PyTree

from jaxgeo._checks import is_key
from jaxgeo._trainable import path_name
from jaxgeo.fitting.rebuild import Rebuild
from jaxgeo.problem import ModelApply, Problem

Statistics = Callable[[PyTree, PyTree], PyTree]


class Renewal(eqx.Module):
    """Replaces the arrays of a model that are not trained by those of `statistics(model, inputs)`.

    - `statistics`: the user's function from the model and the inputs of an update to the model with new statistics.
    - `rebuild`: converts parameters to the user's model.
    """

    statistics: Statistics
    rebuild: Rebuild

    def __call__(self, problem: Problem, params: PyTree) -> PyTree:
        """The parameters with new statistics, from the inputs of the problem; the others stay as they are."""
        found = self.rebuild.wrapped(self.statistics(self.rebuild(params), problem.inputs))
        trainable, old = problem.partition(params)
        new = jax.tree.map(lambda before, after: None if before is None else after, old, found, is_leaf=_is_none)
        return eqx.combine(trainable, new)

    def check(self, problem: Problem, params: PyTree) -> None:
        """Raise `ValueError` unless the statistics keep their structure, shapes and dtypes; computes nothing."""
        try:
            new = eqx.filter_eval_shape(self, problem, params)
        except ValueError as error:
            raise ValueError(f"`statistics` must return a model like the one it was given: {error}") from error
        old = eqx.filter_eval_shape(lambda params: params, params)
        pairs = zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (old, new)), strict=False)
        for (path, before), (_, after) in pairs:
            if getattr(after, "shape", None) != before.shape or after.dtype != before.dtype:
                raise ValueError(
                    f"`statistics` must keep shapes and dtypes; `{path_name(path)}` of the model was "
                    f"{before.dtype}{list(before.shape)} and became {after!r}."
                )
        if jax.tree.structure(old) != jax.tree.structure(new):
            raise ValueError("`statistics` must return a model with all arrays of the one it was given.")


def with_statistics(problem: Problem, params: PyTree) -> tuple[Problem, PyTree]:
    """The same problem, and parameters that hold all arrays of the model, of which the same are trained."""
    network = problem.blocks[0].apply
    assert isinstance(network, ModelApply)
    held, static = eqx.partition(network.static, lambda leaf: eqx.is_array(leaf) and not is_key(leaf))
    whole = eqx.combine(params, held)
    mask = jax.tree.map(lambda leaf, own: own is not None, whole, params, is_leaf=_is_none)
    return eqx.tree_at(
        lambda problem: (problem.blocks[0].apply, problem.trainable), problem, (ModelApply(static), mask)
    ), whole


def _is_none(leaf: PyTree) -> bool:
    return leaf is None
