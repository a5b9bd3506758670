"""A prior on the parameters that `fit` trains: part of the problem if given, of the optimizer if found."""

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
    """The method to use: Levenberg–Marquardt that finds the strength, or the chosen method.

    **Raises:** `ValueError` if another method is asked to find the strength.
    """
    if not prior.by_evidence:
        return chosen
    if name != "levenberg-marquardt":
        shown = type(chosen).__name__ if isinstance(chosen, AbstractFlow) else repr(name)
        raise ValueError(
            f'`prior="evidence"` needs Levenberg–Marquardt on all samples; got `method` {shown}. Pass '
            'method="levenberg-marquardt", or a number for `prior`.'
        )
    groups = prior.groups if apply is None or prior.groups is None else Applied(prior.groups, apply)
    return adapted_levenberg_marquardt(prior=Prior(groups=groups))


def regularised(task: Task, prior: Prior, apply: Callable[[PyTree, PyTree], Array] | None) -> Task:
    """The same task with a given prior in its cost, but not in its held-out cost.

    **Raises:** `ValueError` for conditions, because their points are redrawn.
    """
    if task.collocated is not None:
        raise ValueError(
            "`prior` needs fixed points: pass a problem, `problem.with_prior(params, precision)`, not conditions."
        )
    if prior.by_evidence:
        return task
    if prior.num_samples is not None:
        raise ValueError("`fit` knows the number of samples: leave `num_samples` of the `prior` out.")
    precision = prior.precision
    if apply is not None and jax.tree.structure(precision).num_nodes != 1:
        precision = Applied(precision, apply)
    try:
        return replace(task, problem=task.problem.with_prior(task.params, precision))
    except ValueError as error:
        raise ValueError(f"`prior` does not match the model: {error}") from error


def settings_of(prior: Prior) -> dict[str, Any]:
    """The settings that must be the same for a run to be resumed."""
    if prior.by_evidence:
        labels = [str(label) for label in jax.tree.leaves(prior.groups)]
        return {"prior": ["evidence", *labels]}
    return {"prior": [float(value) for value in jax.tree.leaves(prior.precision)]}
