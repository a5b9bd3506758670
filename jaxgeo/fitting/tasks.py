"""The task of a run of `fit`: from arrays, a problem, or the conditions of a differential equation."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxgeo._checks import as_array, as_real, as_samples, is_key, is_trainable_leaf
from jaxgeo._trainable import partition, tell_of_frozen
from jaxgeo.costs import SampleWeighted
from jaxgeo.equations.condition import Condition
from jaxgeo.equations.equation import Equation
from jaxgeo.fitting.arguments import make_cost, read_pair
from jaxgeo.fitting.collocation import Collocation, Samples, check_residuals, collocate
from jaxgeo.fitting.rebuild import Applied, Rebuild
from jaxgeo.fitting.renewal import Renewal, Statistics, with_statistics
from jaxgeo.optim import TrustRegion, adapted_levenberg_marquardt
from jaxgeo.optim.bounds import read_bounds as read_box
from jaxgeo.optim.problem_maker import CostOfTargets
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem, supervised
from jaxgeo.uncertainty.leaves import entry_names


@dataclass(frozen=True)
class Task:
    """The problem to train, and its data.

    - `rebuild`: converts trained parameters to the user's model, and back.
    - `held_out`: the held-out problem, or None. `fingerprint`: of the data.
    - `targets`, `weights`: of the samples, if batches are to be made; weights are None if they are equal.
    - `collocated`: training conditions, held-out conditions, and the first points.
    - `renewal`: how running statistics, which `params` then hold too, follow the training; or None.
    """

    problem: Problem
    params: Params
    rebuild: Rebuild
    held_out: Problem | None
    fingerprint: str
    targets: Array | None = None
    weights: Array | None = None
    collocated: tuple[Collocation, Problem, Samples] | None = None
    renewal: Renewal | None = None


def arrays_task(
    model: PyTree,
    inputs: PyTree,
    targets: ArrayLike | None,
    cost: CostOfTargets,
    apply: Callable[[PyTree, PyTree], Array] | None,
    trainable: PyTree,
    per_sample: bool,
    validation: Any,
    weights: ArrayLike | None = None,
    statistics: Statistics | None = None,
) -> Task:
    """A task from samples and targets; samples of weight 0 are left out."""
    if targets is None:
        raise ValueError("`targets` are missing: pass one for each sample, or a problem or conditions as `inputs`.")
    inputs = as_samples("inputs", inputs)
    network = model if apply is None else Applied(model, apply)
    mask = trainable if apply is None or trainable is is_trainable_leaf else Applied(trainable, apply)
    trained, _ = partition(network, mask)
    if statistics is not None:
        # Chosen one by one, so that no warning says that the statistics are frozen.
        mask = jax.tree.map(lambda _, own: own is not None, network, trained, is_leaf=lambda leaf: leaf is None)
    dtype = jnp.result_type(*jax.tree.leaves(trained))
    aims = _cast("targets", targets, dtype)
    made = make_cost(cost, aims)
    if weights is not None:
        weights = as_real("weights", weights).astype(dtype)
        made = SampleWeighted(made, weights)
    problem, params = supervised(network, inputs, made, trainable=mask, per_sample=per_sample)
    counted, whole = problem.loss.counted, problem
    problem = problem.without_ignored()
    if problem is not whole and counted is not None:
        kept = np.flatnonzero(counted)
        aims, weights = aims[kept], None if weights is None else weights[kept]
    held_out = None
    if validation is not None:
        held_inputs, held_targets = read_pair(validation)
        try:
            held_cost = make_cost(cost, _cast("targets", held_targets, dtype))
            held_out, _ = supervised(network, held_inputs, held_cost, trainable=mask, per_sample=per_sample)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`validation` cannot be used: {error}") from error
    rebuild, renewal = Rebuild(network, unwrap=apply is not None), None
    if statistics is not None:
        renewal = Renewal(statistics, rebuild)
        problem, params = with_statistics(problem, params)
        rebuild = Rebuild(rebuild.network, rebuild.unwrap, problem.trainable)
        held_out = None if held_out is None else with_statistics(held_out, params)[0]
        renewal.check(problem, params)
    return Task(
        problem, params, rebuild, held_out, fingerprint_of(inputs, targets, weights), aims, weights, renewal=renewal
    )


def problem_task(model: PyTree, problem: Problem, validation: Any) -> Task:
    """A task from a problem as it is; its trainable parameters are trained."""
    problem.check(model)
    restricted, params = problem.restrict(model)
    if validation is not None and not isinstance(validation, Problem):
        raise ValueError(
            f"`validation` of a problem must be another `jaxgeo.Problem`; got {type(validation).__name__}."
        )
    held_out = None
    if validation is not None:
        # Use the same parameters, whatever the held-out problem would train itself.
        held_out, _ = eqx.tree_at(lambda each: each.trainable, validation, problem.trainable).restrict(model)
    data = [block.inputs for block in problem.blocks]
    _, static = problem.partition(model)
    return Task(restricted, params, Rebuild(static, unwrap=False), held_out, fingerprint_of(data, problem.loss))


def conditions_task(model: PyTree, conditions: Sequence[Condition], trainable: PyTree, seed: int) -> Task:
    """A task from conditions at drawn points, with other points held out.

    **Raises:** `ValueError` if a residual is not finite somewhere, or does not depend on the model.
    """
    tell_of_frozen(model, trainable)
    params, static = partition(model, trainable)
    trained, held = collocate(conditions, params, static, seed)
    first, second = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2))
    samples, others = trained.draw(first), held.draw(second)
    for collocation, points in ((trained, samples), (held, others)):
        check_residuals(collocation, params, points)
    problem, held_out = trained.problem(samples), held.problem(others)
    problem.check(params)
    data = [each.points for each in conditions], [each.data for each in conditions]
    rebuild = Rebuild(static, unwrap=False)
    fingerprint = fingerprint_of(*data, np.asarray(trained.counts), np.asarray([each.weight for each in conditions]))
    return Task(problem, params, rebuild, held_out, fingerprint, None, None, (trained, held_out, samples))


def read_conditions(inputs: Any) -> tuple[Condition, ...] | None:
    """The conditions in `inputs`; None if `inputs` are not conditions."""
    if isinstance(inputs, Condition):
        return (inputs,)
    if isinstance(inputs, Equation):
        return tuple(inputs.conditions())
    if isinstance(inputs, list | tuple) and any(isinstance(each, Condition) for each in inputs):
        others = [each for each in inputs if not isinstance(each, Condition)]
        if others:
            raise ValueError(f"every condition must be a `jaxgeo.equations.Condition`; got {others[0]!r} too.")
        return tuple(inputs)
    return None


def refuse_data(**given: Any) -> None:
    """Raise `ValueError` if an argument was passed that only applies to samples and targets."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"`{name}` only applies to samples and targets; a problem or conditions have their own.")


def read_bounds(bounds: Any, task: Task) -> optax.GradientTransformationExtraArgs:
    """Levenberg–Marquardt within bounds.

    **Raises:** `ValueError` unless the bounds are a pair that matches the model, and the model is within them.
    """
    model = task.rebuild(task.params)
    if isinstance(bounds, tuple | list):
        each = [np.asarray(one, float) if eqx.is_array(model) else one for one in bounds]
        bounds = [task.rebuild.wrapped(one) for one in each]
    found = read_box(bounds, task.params, entry_names(task.rebuild.own(task.params)), "model")
    return adapted_levenberg_marquardt(trust_region=TrustRegion(bounds=found))


def read_starts(starts: Any, task: Task) -> list[Params]:
    """The trainable parameters of more models to start from.

    **Raises:** `ValueError` unless they are models of the same structure, and at least one has a finite cost.
    """
    if not isinstance(starts, list | tuple) or not starts:
        raise ValueError(f"`starts` must be a list of models like `model`; got {starts!r}.")
    return [task.rebuild.params_of(f"starts[{i}]", start, task.params) for i, start in enumerate(starts)]


def _cast(name: str, values: ArrayLike, dtype: jnp.dtype) -> Array:
    array = as_array(name, values)
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def fingerprint_of(*data: PyTree) -> str:
    """A fingerprint of the data of a run, so that the run is not resumed on other data."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(data, eqx.is_array_like)):
        array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
