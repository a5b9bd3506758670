"""A prior on the parameters that `fit` trains: in the problem where it is given, in the optimizer where it is found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import Array, PyTree

from jaxgeo.fitting.methods import Method
from jaxgeo.fitting.rebuild import Applied
from jaxgeo.fitting.tasks import Task
from jaxgeo.flows import AbstractFlow
from jaxgeo.optim import Prior, adapted_levenberg_marquardt


def method_with(prior: Prior, chosen: Method, name: Any, apply: Callable[[PyTree, PyTree], Array] | None) -> Method:
    """The method to use: Levenberg–Marquardt that finds the strength, or the one that was chosen.

    **Raises:** `ValueError` if the strength is to be found by another method.
    """
    if not prior.by_evidence:
        return chosen
    if name != "levenberg-marquardt":
        shown = type(chosen).__name__ if isinstance(chosen, AbstractFlow) else repr(name)
        raise ValueError(
            f'`prior="evidence"` is found by Levenberg–Marquardt on all samples; got `method` {shown}. Pass '
            'method="levenberg-marquardt", or a number for `prior`.'
        )
    groups = prior.groups if apply is None or prior.groups is None else Applied(prior.groups, apply)
    return adapted_levenberg_marquardt(prior=Prior(groups=groups))


def regularised(task: Task, prior: Prior, apply: Callable[[PyTree, PyTree], Array] | None) -> Task:
    """The same task with a given prior in what is minimised; what is held out is judged without it.

    **Raises:** `ValueError` for conditions, whose points are drawn anew.
    """
    if task.collocated is not None:
        raise ValueError(
            "`prior` is not for conditions: pass a problem at fixed points, `problem.with_prior(params, precision)`."
        )
    if prior.by_evidence:
        return task
    if prior.num_samples is not None:
        raise ValueError("`fit` knows how many samples there are: leave `num_samples` of the `prior` out.")
    precision = prior.precision
    if apply is not None and jax.tree.structure(precision).num_nodes != 1:
        precision = Applied(precision, apply)
    return replace(task, problem=task.problem.with_prior(task.params, precision))


def settings_of(prior: Prior) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    if prior.by_evidence:
        labels = [str(label) for label in jax.tree.leaves(prior.groups)]
        return {"prior": ["evidence", *labels]}
    return {"prior": [float(value) for value in jax.tree.leaves(prior.precision)]}
