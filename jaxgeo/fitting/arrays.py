"""`fit`: a network trained on arrays by any flow or optimizer, watched, saved, and resumed."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from jaxgeo import theory
from jaxgeo._checks import as_array, is_trainable_leaf
from jaxgeo._trainable import partition
from jaxgeo.costs import L2
from jaxgeo.costs.squares import AbstractSquares
from jaxgeo.fitting.arguments import check_functions, check_numbers, make_cost, read_folder, read_method, read_pair
from jaxgeo.fitting.drivers import Batches, FlowDriver, OptimizerDriver, Record
from jaxgeo.fitting.interrupt import Interruptible
from jaxgeo.fitting.keeper import Keeper
from jaxgeo.fitting.loop import Aim, Callback, Fit, Loop, Progress
from jaxgeo.fitting.methods import Method
from jaxgeo.flows import AbstractFlow
from jaxgeo.optim.problem_maker import CostOfTargets
from jaxgeo.outputs import Params
from jaxgeo.problem import supervised


def fit(
    model: PyTree,
    inputs: PyTree,
    targets: ArrayLike,
    *,
    method: str | Method = "adapted",
    cost: CostOfTargets = L2,
    apply: Callable[[PyTree, PyTree], Array] | None = None,
    trainable: PyTree = is_trainable_leaf,
    per_sample: bool = True,
    tol: float = 1e-6,
    rtol: float | None = None,
    max_steps: int = 1000,
    batch_size: int | None = None,
    record_every: int | None = None,
    seed: int = 0,
    validation: tuple[PyTree, ArrayLike] | None = None,
    patience: int | None = None,
    record: Record | None = None,
    progress: Callable[[Progress], None] | None = None,
    callbacks: Sequence[Callback] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    keep_every: float = 5.0,
    rank_check: bool = True,
    interruptible: Interruptible | None = None,
) -> Fit:
    """Train `model` on arrays, along a flow or by an optimizer, until C is `tol` of C(0).

    Ctrl-C ends the run after the part at hand and returns what it came to. With a folder the run is kept as it goes,
    and after any end, power cuts included, the same call with `resume=True` goes on from the last state that was
    kept: its parameters at the end are, to the last bit, those of a run that was never cut.

    **Arguments:**

    - `model`: an Equinox model, `model(x_j)` for one sample; or with `apply` any pytree of parameters.
    - `inputs`: samples with leading axis N, cast to the parameters' dtype where floating point.
    - `targets`: y with leading axis N, cast like the inputs; of shape (N, Q) for `jaxgeo.L2`.
    - `method`: "adapted", "overparametrized", "underparametrized", "rank-adaptive" or "standard" for a flow;
        "levenberg-marquardt", "interpolation", "adapted-momentum", "adapted-gradient-descent" (those of
        `jaxgeo.optim`), "adam", "sgd" or "lbfgs" (optax's) for an optimizer; or any flow or optax transformation.
    - `cost`: makes the cost from targets: a class such as `jaxgeo.L2`, or a function such as
        `jaxgeo.SoftmaxCrossEntropy.from_labels`.
    - `apply`: the network as a function `apply(params, x_j)`; `model` is its params then.
    - `trainable`: as for `jaxgeo.Problem`; running statistics of batch normalisation are frozen by default.
    - `per_sample`: as for `jaxgeo.Problem`; with False `model` or `apply` takes all samples, or a batch, at once.
    - `tol`: cost to stop at, relative to C(0), in [0, 1); 0 for none, with an optimizer.
    - `rtol`: of a flow, as for `jaxgeo.solve_flow`.
    - `max_steps`: attempted steps of a flow or updates of an optimizer, after which to give up.
    - `batch_size`: samples an update is made on, for optimizers; by default all.
    - `record_every`: updates of an optimizer from one row to the next; an epoch by default.
    - `seed`: of the order in which batches are drawn.
    - `validation`: held-out inputs and targets. Their cost is put into the last row of each part.
    - `patience`: stop after so many parts in which the validation cost had no new minimum, and return the network that
        had it. A part is up to 6 steps of a flow, or `record_every` updates.
    - `record`: a function `(s, params, problem)` that gives a dictionary of more numbers for each row, as for
        `jaxgeo.solve_flow`; compiled.
    - `progress`: called with a `jaxgeo.fitting.Progress` at each row; along a flow from within the compiled
        integration, where it must not call JAX.
    - `callbacks`: functions of the progress and the model, called after each part; one that returns True ends the run.
    - `folder`: where to keep `metrics.jsonl` and `checkpoints/`, and `tensorboard/` if tensorboardX is installed. Needs
        orbax: `pip install "jaxgeo[cli]"`.
    - `resume`: resume the run that is in `folder`, if there is one.
    - `keep_every`: seconds from one checkpoint to the next, at least; 0 for one after each part.
    - `rank_check`: as for `jaxgeo.solve_flow`.
    - `interruptible`: runs the parts so that Ctrl-C is heard at once, on a thread of its own; by default they run on
        this one, and Ctrl-C is heard when a part has ended.

    **Returns:** a `jaxgeo.fitting.Fit`.

    **Raises:** `ValueError` on data, names, numbers or a folder that cannot be used, and on a kept run of another
    network, method or data, with the difference. `ModuleNotFoundError` for `folder` without orbax.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, jaxgeo as jg
    >>> x = jnp.linspace(-1.0, 1.0, 5)[:, None]
    >>> model = eqx.nn.MLP(1, 1, 16, 1, activation=jnp.tanh, key=jax.random.key(0))
    >>> found = jg.fit(model, x, x**2, method="levenberg-marquardt", tol=1e-12)
    >>> found.outcome.value, found.cost <= 1e-12 * found.initial_cost
    ('reached', True)

    ```
    """
    check_numbers(
        tol=tol,
        keep_every=keep_every,
        seed=seed,
        max_steps=max_steps,
        optional={"batch_size": batch_size, "record_every": record_every, "patience": patience},
    )
    callbacks = check_functions(record=record, progress=progress, callbacks=callbacks, interruptible=interruptible)
    tol, keep_every = float(tol), float(keep_every)
    if patience is not None and validation is None:
        raise ValueError("`patience` counts from the best validation cost; pass `validation=(inputs, targets)` too.")
    if resume and folder is None:
        raise ValueError("`resume` needs the `folder` in which the run is kept.")
    chosen = read_method(method)
    network = model if apply is None else _Applied(model, apply)
    mask = trainable if apply is None or trainable is is_trainable_leaf else _Applied(trainable, apply)
    dtype = jnp.result_type(*jax.tree.leaves(partition(network, mask)[0]))
    aims = _cast("targets", targets, dtype)
    problem, params = supervised(network, inputs, make_cost(cost, aims), trainable=mask, per_sample=per_sample)
    counted, whole = problem.loss.counted, problem
    problem = problem.without_ignored()
    if problem is not whole and counted is not None:
        aims = aims[np.flatnonzero(counted)]
    held_out = None
    if validation is not None:
        held_inputs, held_targets = read_pair(validation)
        try:
            held_cost = make_cost(cost, _cast("targets", held_targets, dtype))
            held_out, _ = supervised(network, held_inputs, held_cost, trainable=mask, per_sample=per_sample)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`validation` cannot be used: {error}") from error
    initial = float(problem.cost(params))
    if not math.isfinite(initial):
        raise ValueError(f"the cost of `model` on these samples is {initial} before training; rescale data or model.")
    follows = isinstance(chosen, AbstractFlow) and isinstance(problem.loss, AbstractSquares) and chosen.follows_law(
        problem.num_rows(params), problem.num_params(params)
    )  # fmt: skip
    stop = (
        float(theory.stopping_time(initial, tol * initial, problem.num_samples)) if follows and tol * initial else None
    )
    aim = Aim(initial, tol, max_steps, problem.num_samples, isinstance(chosen, AbstractFlow), stop)
    keeper = None
    if folder is not None:
        settings = {
            "seed": int(seed),
            "batch_size": None if batch_size is None else int(batch_size),
            "data": _fingerprint(inputs, targets),
        }
        keeper = Keeper(read_folder(folder), settings, keep_every, resume=resume)
    loop = Loop(
        aim=aim,
        held_out=held_out,
        patience=patience,
        progress=progress,
        callbacks=callbacks,
        rebuild=_Rebuild(network, unwrap=apply is not None),
        keeper=keeper,
        interruptible=interruptible,
    )
    if isinstance(chosen, AbstractFlow):
        if batch_size is not None or record_every is not None:
            raise ValueError(
                "a flow follows the cost of all samples and records its own steps: `batch_size` and `record_every` are "
                'for optimizers, such as method="adapted-momentum".'
            )
        if tol == 0:
            raise ValueError("`tol` must be positive along a flow, which comes to cost 0 at no finite time.")
        driver = FlowDriver(
            problem,
            chosen,
            cost_tol=tol * initial,
            rtol=rtol,
            record=record,
            listen=None if progress is None else loop.hear,
            rank_check=rank_check,
        )
    else:
        if rtol is not None:
            raise ValueError("`rtol` is the tolerance of the steps of a flow; leave it out with an optimizer.")
        if batch_size is not None and batch_size > problem.num_samples:
            raise ValueError(f"`batch_size` is {batch_size}, but there are only {problem.num_samples} samples.")
        batches = Batches(problem, aims, cost, batch_size, seed)
        every = batches.per_epoch if record_every is None else record_every
        driver = OptimizerDriver(batches, chosen, cost_tol=tol * initial, record=record, every=every)
    return loop.run(driver, params)


class _Applied(eqx.Module):
    """Parameters and the function that applies them, as a model."""

    params: PyTree
    apply: Callable[[PyTree, PyTree], Array] = eqx.field(static=True)

    def __call__(self, x: PyTree) -> Array:
        return self.apply(self.params, x)


class _Rebuild(eqx.Module):
    """From trainable parameters back to what the user passed."""

    network: PyTree
    unwrap: bool

    def __call__(self, params: Params) -> PyTree:
        trained = eqx.combine(params, self.network)
        return trained.params if self.unwrap else trained


def _cast(name: str, values: ArrayLike, dtype: jnp.dtype) -> Array:
    array = as_array(name, values)
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _fingerprint(*data: PyTree) -> str:
    """Of the data that a run is made on, so that it is not resumed on others."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(data):
        array = np.asarray(leaf)
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
