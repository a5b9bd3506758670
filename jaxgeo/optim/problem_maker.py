"""Turn the arguments of an optax `update` into the problem of this step."""

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import optax
from jaxtyping import Array, PyTree

from jaxgeo._checks import is_trainable_leaf
from jaxgeo._trainable import APART, nothing_to_train, selected, statistics_in
from jaxgeo.costs import L2, AbstractCost, SampleWeighted
from jaxgeo.problem import Problem

CostOfTargets = Callable[[Any], AbstractCost]


class ProblemMaker(eqx.Module):
    """Makes problems from batches, for a transformation.

    Callable arguments default to None and not to a function, because `optax.inject_hyperparams` treats callables as
    schedules.

    **Arguments:**

    - `apply`: the network, `apply(params, x_j)` for one sample; None if every update gets `problem=`.
    - `cost`: makes a cost from targets: a class such as `jaxgeo.L2` (the default), or a function of the targets.
    - `trainable`, `per_sample`: as for `jaxgeo.Problem`.

    **Raises:** `ValueError` unless `apply` and `cost` are such functions.
    """

    apply: Callable[[PyTree, PyTree], Array] | None
    cost: CostOfTargets = eqx.field(converter=lambda cost: L2 if cost is None else cost)
    trainable: PyTree = eqx.field(converter=lambda trainable: is_trainable_leaf if trainable is None else trainable)
    per_sample: bool = eqx.field(static=True)

    def __check_init__(self):
        if self.apply is not None and not callable(self.apply):
            raise ValueError(f"`apply` must be a function of params and one sample; got {self.apply!r}. {APART}")
        check_maker(self.cost)

    def partition(self, params: PyTree) -> PyTree:
        """The trainable part of `params`, None elsewhere; raises `ValueError` if nothing is trainable."""
        trainable, _ = selected(params, self.trainable)
        if not jax.tree.leaves(trainable):
            raise nothing_to_train(params)
        return trainable

    def __call__(
        self,
        params: PyTree,
        full_params: PyTree,
        problem: Problem | None,
        inputs: PyTree,
        targets: PyTree,
        weights: PyTree,
    ) -> tuple[Problem, PyTree]:
        """The problem of this step, and the full `params`.

        **Raises:** `ValueError` if `params` or the data are missing.
        """
        if params is None:
            raise ValueError(
                "`params` is missing: the step depends on the parameters; call `tx.update(grads, state, params, …)`."
            )
        full, trainable = fill(params, full_params, self.trainable)
        if problem is not None:
            if inputs is not None or targets is not None:
                raise ValueError("pass either `problem=` or `inputs=` and `targets=`, not both.")
            if weights is not None:
                weighted = SampleWeighted(problem.loss, weights)
                return eqx.tree_at(lambda problem: problem.loss, problem, weighted), full
            return problem, full
        missing = [f"`{name}=`" for name, value in (("inputs", inputs), ("targets", targets)) if value is None]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} missing: this transformation differentiates the outputs of the network, so "
                "it needs the batch. Call `tx.update(grads, state, params, inputs=xb, targets=yb)`, or pass "
                "`problem=problem`."
            )
        if self.apply is None:
            raise ValueError(
                "`inputs=` and `targets=` need the network: create the transformation with `apply`, a function "
                "`apply(params, x_j)` of one sample, or pass `problem=problem` to `update`."
            )
        cost = self.cost(targets)
        if weights is not None:
            cost = SampleWeighted(cost, weights)
        return Problem(self.apply, inputs, cost, trainable=trainable, per_sample=self.per_sample), full


def check_maker(cost: Any) -> None:
    """Raise `ValueError` unless `cost` can make a cost of the targets."""
    if isinstance(cost, AbstractCost) or not callable(cost):
        raise ValueError(
            "`cost` must be a class such as `jaxgeo.L2`, or a function that makes a cost from the targets; got "
            f"{type(cost).__name__}."
        )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def fill(params: PyTree, full_params: PyTree, trainable: PyTree) -> tuple[PyTree, PyTree]:
    """Put back, frozen, the leaves that `optax.masked` removed from `params`; also say which leaves are trainable."""
    if not any(_is_masked(node) for node in jax.tree.leaves(params, is_leaf=_is_masked)):
        return params, trainable
    if full_params is None:
        raise ValueError(
            "`optax.masked` removed leaves from `params` that the network needs; pass `full_params=params` to "
            "`update`, or freeze leaves with `trainable` instead of masking them."
        )

    def choose(kept: Any, original: Any) -> Any:
        return original if _is_masked(kept) else kept

    def mark(kept: Any, original: Any, statistic: Any) -> Any:
        return jax.tree.map(lambda _: False, original) if _is_masked(kept) else chosen(kept) and not statistic

    chosen = cast(Callable[[Any], bool], trainable) if callable(trainable) else is_trainable_leaf
    full = jax.tree.map(choose, params, full_params, is_leaf=_is_masked)
    statistics = statistics_in(full)
    if chosen is not is_trainable_leaf:
        statistics = jax.tree.map(lambda _: False, statistics)
    return full, jax.tree.map(mark, params, full_params, statistics, is_leaf=_is_masked)


def like(params: PyTree, updates: PyTree, velocity: PyTree) -> PyTree:
    """Turn a velocity of the full parameters into an update: masked or None where `params` or `updates` are."""

    def choose(kept: Any, value: Any) -> Any:
        return kept if _is_masked(kept) else value

    velocity = jax.tree.map(choose, params, velocity, is_leaf=lambda node: node is None or _is_masked(node))

    def drop(update: Any, value: Any) -> Any:
        return None if update is None else value

    return jax.tree.map(drop, updates, velocity, is_leaf=lambda node: node is None)
