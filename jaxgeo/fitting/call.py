"""`fit`: train a network by any flow or optimizer; watch, save and resume the run."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxgeo import theory
from jaxgeo._checks import check_count, is_trainable_leaf
from jaxgeo.costs import L2, AbstractCost
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.fitting.arguments import (
    check_function,
    check_functions,
    check_numbers,
    read_folder,
    read_method,
    read_renewal,
)
from jaxgeo.fitting.bar import Bar
from jaxgeo.fitting.batches import Batches
from jaxgeo.fitting.course import CourseDriver
from jaxgeo.fitting.drivers import FlowDriver, OptimizerDriver, Record
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.keeper import Keeper
from jaxgeo.fitting.loop import Aim, Callback, Fit, Loop, Progress
from jaxgeo.fitting.methods import Method
from jaxgeo.fitting.priors import method_with, regularised, settings_of
from jaxgeo.fitting.renewal import Statistics
from jaxgeo.fitting.starts import StartsDriver
from jaxgeo.fitting.tasks import (
    arrays_task,
    conditions_task,
    fingerprint_of,
    problem_task,
    read_bounds,
    read_conditions,
    read_starts,
    refuse_data,
)
from jaxgeo.flows import AbstractFlow
from jaxgeo.optim.prior import Prior, read_prior
from jaxgeo.optim.problem_maker import CostOfTargets
from jaxgeo.problem import Problem

# Defaults for conditions: updates in a part, patience in parts, the relative decrease that counts, warm-up updates.
EVERY, PATIENCE, LEAST_GAIN, WARMUP = 5, 40, 1e-3, 2000


def fit(
    model: PyTree,
    inputs: PyTree,
    targets: ArrayLike | None = None,
    *,
    method: str | Method | None = None,
    cost: CostOfTargets = L2,
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    trainable: PyTree = is_trainable_leaf,
    per_sample: bool = True,
    weights: ArrayLike | None = None,
    statistics: Statistics | None = None,
    prior: Prior | float | PyTree | None = None,
    tol: float | None = None,
    rtol: float | None = None,
    max_steps: int = 1000,
    max_seconds: float | None = None,
    batch_size: int | None = None,
    record_every: int | None = None,
    seed: int = 0,
    validation: tuple[PyTree, ArrayLike] | Problem | None = None,
    patience: int | None = None,
    points: str | None = None,
    renew_every: int | None = None,
    warmup: int | None = None,
    bounds: Any = None,
    starts: Sequence[PyTree] | None = None,
    record: Record | None = None,
    progress: Callable[[Progress], None] | bool | None = None,
    callbacks: Sequence[Callback] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    keep_every: float = 5.0,
    rank_check: bool = True,
    interruptible: Interruptible | None = None,
) -> Fit:
    """Train `model` on arrays, a problem or a differential equation, along a flow or by an optimizer.

    The run ends when the cost has fallen to `tol` times its initial value, or for another reason listed in
    `jaxgeo.optim.Outcome`, for example because an optimizer on all samples finds no lower cost nearby. Ctrl-C ends the
    run after the current part and returns the result so far. If you pass a `folder`, the run is saved as it goes. After
    any interruption, even a power cut, the same call with `resume=True` continues from the last saved state. The final
    parameters are then, bit for bit, those of an uninterrupted run.

    `fit(model, conditions)` solves differential equations. It draws points for each condition and holds others out.
    Each row has the cost at the points, and as `validation_cost` the cost at the held-out points. The model with the
    lowest validation cost is returned. When the validation cost exceeds twice the cost at the points, the network is
    interpolating its points, so new ones are drawn, most of them where the residual is large. This needs no new
    compilation, and the optimizer keeps its state. A tenth of any measured data is held out, so that the run ends
    before it fits their noise.

    **Arguments:**

    - `model`: an Equinox model or a Flax NNX module, `model(x_j)` for one sample. With `apply`, a problem or conditions
        it may be any pytree of parameters, such as `{"network": network, "viscosity": viscosity}` with an unknown
        coefficient.
    - `inputs`: samples with leading axis N, cast to the dtype of the parameters if they are floating point; PRNG keys
        among them, as for dropout, change from update to update of an optimizer. Or a `jaxgeo.Problem`; or a
        differential equation: a `jaxgeo.equations.Condition`, a list of them, or a ready-made equation.
    - `targets`: y with leading axis N, cast like the inputs; of shape (N, Q) for `jaxgeo.L2`. None for a problem or
        conditions.
    - `method`: "adapted" (the default for arrays), "overparametrized", "underparametrized", "rank-adaptive" or
        "standard" for a flow; "levenberg-marquardt" (the default for a problem or conditions), "interpolation",
        "adapted-momentum", "adapted-gradient-descent" (those of `jaxgeo.optim`), "adam", "sgd" or "lbfgs" (optax's) for
        an optimizer; or any flow or optax transformation.
    - `cost`: makes the cost from targets: a class such as `jaxgeo.L2`, or a function such as
        `jaxgeo.SoftmaxCrossEntropy.from_labels`.
    - `apply`: the network as a function `apply(params, x_j)`; `model` then holds its parameters.
    - `trainable`: as for `jaxgeo.Problem`. Running statistics of batch normalisation are frozen by default.
    - `per_sample`: as for `jaxgeo.Problem`; if False, `model` or `apply` takes all samples, or a batch, at once.
    - `weights`: weights of the samples, for arrays: weight 2 counts a sample twice, weight 0 leaves it out. Held-out
        samples have no weights.
    - `statistics`: a function `(model, inputs)` that returns the model with new running statistics, for arrays. It is
        called at each update of an optimizer, with the model before the update and the inputs of the batch, and may
        change any arrays that are not trained. By default they stay as they are.
    - `prior`: a Gaussian prior on the parameters as part of the cost: a number or a pytree prefix of `model`, as for
        `jaxgeo.Problem.with_prior`; or "evidence" to let the data choose its strength, with "levenberg-marquardt",
        which is then the default. The cost in the rows is then that of the data alone, and the rows also hold the
        `noise` and the effective number of parameters. Continue with `jaxgeo.posterior(…, prior_precision="evidence")`
        for error bars. Pass a `jaxgeo.optim.Prior` to use groups.
    - `tol`: stop once the cost is at most `tol` times C(0), with `tol` in [0, 1). With an optimizer, 0 means never, and
        the tolerance is relative to the cost of predicting the mean of the targets if this is less than C(0). The
        default is 1e-6, but 0 with a prior and for conditions. For conditions the cost at the held-out points must
        reach the tolerance too.
    - `rtol`: tolerance of the steps of a flow, as for `jaxgeo.solve_flow`. If the outputs follow (2.7), each step is
        corrected by a lift, see `jaxgeo.OrbitCorrector`. The outputs are then exact to about `rtol`², and θ to `rtol`.
    - `max_steps`: give up after this number of attempted steps of a flow, or updates of an optimizer.
    - `max_seconds`: stop after the part in which this time is exceeded. It includes compilation, which takes most of
        the time of a short run; if it takes longer than allowed, the run ends after its first part.
    - `batch_size`: number of samples for each update of an optimizer; by default all.
    - `record_every`: number of updates from one row to the next, which make a part; by default an epoch, and for
        conditions `renew_every` or 5.
    - `seed`: seed for the order of the batches, or for the points.
    - `validation`: held-out inputs and targets, or another problem if you train on a problem. Their cost is in the last
        row of each part. For conditions, `fit` creates the held-out points itself.
    - `patience`: stop after this number of parts without a new minimum of the validation cost, and return the network
        at the minimum. A part is up to 6 steps of a flow, or `record_every` updates. For conditions the default is 40,
        and only a decrease by at least a thousandth counts.
    - `points`: how to redraw the points of conditions: "residual" (the default), more of them where the residual is
        large; "uniform"; or "fixed" to keep them. Along a flow they are fixed.
    - `renew_every`: number of updates between redraws, which happen at the end of a part. By default points are redrawn
        when the validation cost exceeds twice the cost at the points.
    - `warmup`: for conditions, the number of first updates by Adam on fresh points, which lead out of flat minima. They
        do not count towards `max_steps`. The default is 2000 for "levenberg-marquardt", and 0 for other methods.
    - `bounds`: (low, high) for "levenberg-marquardt", which is then the default: each a number or a pytree prefix of
        `model`; ∞ for no bound. Needs no more parameters than outputs, and at most 1024.
    - `starts`: more models like `model` to start from, for an optimizer on all samples. All are trained in one program.
        The model with the lowest cost is returned, and `starts` of the result describes the end of each.
    - `record`: a function `(s, params, problem)` that returns a dictionary of further numbers for each row, as for
        `jaxgeo.solve_flow`; it is compiled.
    - `progress`: True for a line on the terminal, which says "compiling …" until the first row; or a function that is
        called with a `jaxgeo.fitting.Progress` at each row. Along a flow it is called from within the compiled
        integration, and must not call JAX.
    - `callbacks`: functions of the progress and the model, called after each part; if one returns True, the run ends.
    - `folder`: where to save `metrics.jsonl` and `checkpoints/`, and `tensorboard/` if tensorboardX is installed. Needs
        orbax: `pip install "jaxgeo[cli]"`.
    - `resume`: resume the run in `folder`, if there is one.
    - `keep_every`: the least number of seconds between checkpoints; 0 to save after each part.
    - `rank_check`: as for `jaxgeo.solve_flow`.
    - `interruptible`: runs the parts on a separate thread, so that Ctrl-C is noticed at once. By default they run on
        the calling thread, and Ctrl-C is noticed at the end of a part.

    **Returns:** a `jaxgeo.fitting.Fit`.

    **Raises:** `ValueError` if data, names, numbers or the folder cannot be used, if a residual is not finite or does
    not depend on the model, and if the saved run has another network, method or data; the message names the difference.
    `ModuleNotFoundError` if `folder` is given without orbax.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, jaxgeo as jg
    >>> x = jnp.linspace(-1.0, 1.0, 5)[:, None]
    >>> model = eqx.nn.MLP(1, 1, 16, 1, activation=jnp.tanh, key=jax.random.key(0))
    >>> found = jg.fit(model, x, x**2, method="levenberg-marquardt", tol=1e-12)
    >>> found.outcome.value, found.cost <= 1e-12 * found.initial_cost
    ('reached', True)

    ```

    The equation u' = −u, from u(0) = 1:

    ```python
    >>> from jaxgeo.equations import Box, Condition, Network, gradient
    >>> def decay(model, point):
    ...     u = lambda point: 1 + point[0] * model(point)[0]
    ...     return gradient(u)(point) + u(point)
    >>> network = Network((1, 8, 1), x.dtype, key=jax.random.key(0))
    >>> found = jg.fit(network, Condition(decay, Box(t=(0, 1))), warmup=100, max_steps=40)
    >>> bool(abs(1 + found.model(jnp.ones(1))[0] - jnp.exp(-1)) < 1e-3)
    True

    ```
    """
    check_numbers(
        tol=0.0 if tol is None else tol,
        keep_every=keep_every,
        seed=seed,
        max_steps=max_steps,
        max_seconds=max_seconds,
        optional={
            "batch_size": batch_size, "record_every": record_every, "patience": patience, "renew_every": renew_every
        },
    )  # fmt: skip
    if warmup is not None:
        check_count("warmup", warmup, least=0)
    bar = Bar() if progress is True else None
    hear = bar if bar is not None else None if isinstance(progress, bool) else progress
    callbacks = check_functions(record=record, progress=hear, callbacks=callbacks, interruptible=interruptible)
    if resume and folder is None:
        raise ValueError("`resume` needs the `folder` in which the run is saved.")
    conditions = read_conditions(inputs)
    simple = conditions is None and not isinstance(inputs, Problem)
    prior = read_prior(prior)
    evidence = prior is not None and prior.by_evidence
    if method is None:
        method = "adapted" if simple and not evidence and bounds is None else "levenberg-marquardt"
    chosen = read_method(method)
    is_flow = isinstance(chosen, AbstractFlow)
    given = {"points": points, "renew_every": renew_every, "warmup": warmup}
    if conditions is None or is_flow:
        where = "of conditions" if conditions is None else "of an optimizer; along a flow they are fixed"
        for name, value in given.items():
            if value not in (None, "fixed", 0) or (value is not None and conditions is None):
                raise ValueError(f"`{name}` is an option for the points {where}; leave it out.")
    if bounds is not None and method != "levenberg-marquardt":
        raise ValueError(
            '`bounds` need method="levenberg-marquardt", the default with them; leave `method` out, or create the '
            "optimizer with `trust_region=jaxgeo.optim.TrustRegion(bounds=jaxgeo.optim.Bounds(low, high))`."
        )
    if bounds is not None and prior is not None:
        raise ValueError("`bounds` and `prior` cannot be combined yet; leave one out.")
    if starts is not None and (is_flow or conditions is not None or batch_size is not None):
        raise ValueError('`starts` need an optimizer on all samples, such as method="levenberg-marquardt".')
    if statistics is not None:
        check_function("statistics", statistics)
        if is_flow or not (prior is bounds is starts is None):
            raise ValueError(
                'running `statistics` need an optimizer, such as method="levenberg-marquardt", without `prior`, '
                "`bounds` and `starts`."
            )
    if prior is not None:
        chosen = method_with(prior, chosen, method, apply)
    if bar is not None:
        bar.compiling()
    if not simple:
        refuse_data(targets=targets, cost=None if cost is L2 else cost, apply=apply, batch_size=batch_size,
                    weights=weights, statistics=statistics, per_sample=None if per_sample else per_sample)  # fmt: skip
    if conditions is not None:
        if validation is not None:
            raise ValueError("for conditions, `fit` creates the held-out points itself; leave `validation` out.")
        task = conditions_task(model, conditions, trainable, seed)
        patience = PATIENCE if patience is None else patience
    elif isinstance(inputs, Problem):
        task = problem_task(model, inputs, validation)
    else:
        task = arrays_task(model, inputs, targets, cost, apply, trainable, per_sample, validation, weights, statistics)
    if prior is not None:
        task = regularised(task, prior, apply)
    if patience is not None and task.held_out is None:
        raise ValueError("`patience` needs a validation cost; pass `validation=(inputs, targets)` too.")
    problem, params = task.problem, task.params
    if tol is None:
        tol = 1e-6 if is_flow or (conditions is None and prior is None) else 0.0
    tol = float(tol)
    warmup = WARMUP if warmup is None and method == "levenberg-marquardt" else warmup or 0
    warmup = 0 if conditions is None or is_flow else warmup
    initial = float(problem.cost(params))
    if not math.isfinite(initial):
        raise ValueError(
            f"the cost of `model` on these samples is {initial} before training; rescale the data or the model."
        )
    least = tol * (initial if is_flow else _scale(problem.loss, initial))
    follows = isinstance(chosen, AbstractFlow) and isinstance(problem.loss, AbstractSquares) and chosen.follows_law(
        problem.num_rows(params), problem.num_params(params)
    )  # fmt: skip
    stop = (
        float(theory.stopping_time(initial, tol * initial, problem.num_samples)) if follows and tol * initial else None
    )
    aim = Aim(initial, tol, least, max_steps + warmup, problem.num_samples, is_flow, stop)
    keeper = None
    if folder is not None:
        settings = {
            "seed": int(seed),
            "batch_size": None if batch_size is None else int(batch_size),
            "data": task.fingerprint,
        }
        if prior is not None:
            settings |= settings_of(prior)
        if conditions is not None:
            settings |= {"points": points, "renew_every": renew_every, "warmup": warmup}
        given = {"bounds": bounds, "starts": starts}
        settings |= {name: fingerprint_of(each) for name, each in given.items() if each is not None}
        keeper = Keeper(read_folder(folder), settings, float(keep_every), resume=resume)
    loop = Loop(
        aim=aim,
        held_out=task.held_out,
        patience=patience,
        progress=hear,
        callbacks=callbacks,
        rebuild=task.rebuild,
        keeper=keeper,
        interruptible=interruptible,
        max_seconds=max_seconds,
        judged_from=warmup,
        least_gain=0.0 if conditions is None else LEAST_GAIN,
        whole=batch_size is None,
    )
    if isinstance(chosen, AbstractFlow):
        if batch_size is not None or record_every is not None:
            raise ValueError(
                "a flow follows the cost of all samples and records each of its steps: `batch_size` and `record_every` "
                'are only for optimizers, such as method="adapted-momentum".'
            )
        if tol == 0:
            raise ValueError(
                "`tol` must be positive along a flow, because a flow does not reach cost 0 in finite time."
            )
        driver = FlowDriver(
            problem,
            chosen,
            initial_cost=initial,
            cost_tol=tol * initial,
            rtol=rtol,
            record=record,
            listen=None if hear is None else loop.hear,
            rank_check=rank_check,
        )
    else:
        if rtol is not None:
            raise ValueError("`rtol` is the tolerance of the steps of a flow; leave it out with an optimizer.")
        if batch_size is not None and batch_size > problem.num_samples:
            raise ValueError(f"`batch_size` is {batch_size}, but there are only {problem.num_samples} samples.")
        optimizer = chosen if bounds is None else read_bounds(bounds, task)
        if starts is not None:
            every = 1 if record_every is None else record_every
            several = [params, *read_starts(starts, task)]
            driver = StartsDriver(problem, optimizer, several, cost_tol=least, record=record, every=every)
        elif task.collocated is None:
            batches = Batches(problem, task.targets, cost, batch_size, seed, task.weights)
            every = batches.per_epoch if record_every is None else record_every
            driver = OptimizerDriver(
                batches, optimizer, cost_tol=least, record=record, every=every, renewal=task.renewal
            )
        else:
            renewal = read_renewal(points, renew_every, record_every)
            driver = CourseDriver(
                *task.collocated,
                optimizer,
                cost_tol=tol * initial,
                record=record,
                every=record_every or renew_every or EVERY,
                warmup=warmup,
                renewal=renewal,
                seed=seed,
            )
    with bar or contextlib.nullcontext():
        return loop.run(driver, params)


def _scale(cost: AbstractCost, initial: float) -> float:
    """The cost to which a tolerance is relative: C(0), or the cost of a constant output if it is less but not 0."""
    outputs = cost.constant_outputs()
    constant = math.inf if outputs is None else float(cost(outputs))
    return min(initial, constant) if constant > 0 else initial
