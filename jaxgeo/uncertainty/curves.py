"""`curve_fit`: like SciPy's, for any pytree of parameters, by Levenberg–Marquardt with exact derivatives."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from jaxgeo._checks import as_real, check_count, check_function, is_trainable_leaf
from jaxgeo.costs import L2, WeightedL2
from jaxgeo.optim import Bounds, Ending, Outcome, Start, TrustRegion, adapted_levenberg_marquardt
from jaxgeo.optim.bounds import read_bounds
from jaxgeo.optim.endings import told_of
from jaxgeo.outputs import Params
from jaxgeo.problem import Problem
from jaxgeo.uncertainty.estimation import posterior
from jaxgeo.uncertainty.leaves import entry_names
from jaxgeo.uncertainty.posteriors import Posterior
from jaxgeo.uncertainty.prediction import Prediction
from jaxgeo.uncertainty.starts import read_starts


class CurveFit(eqx.Module):
    """The result of `jaxgeo.curve_fit`; `popt, pcov = result` works as in SciPy, and `print(result)` shows a table.

    - `popt`: the fitted parameters, with the structure of `p0`.
    - `pcov`: their covariance, in the order of the flattened leaves; infinite for parameters that the data do not fix.
    - `stderr`: the square roots of its diagonal, with the structure of `p0`; None for frozen leaves.
    - `cost`: ½Σ((f − y)/σ)².
    - `outcome`: a `jaxgeo.optim.Outcome`; `message` says why; `num_steps`: number of updates.
    - `names`: names of the parameters, in the order of `pcov`.
    - `unfixed`: parameters that the data do not fix. `active`: parameters at a bound.
    - `curve`: f, with its points along the first axis.
    - `starts`: a `jaxgeo.optim.Start` for each start, `p0` first; empty unless there were several.
    - `posterior`: a `jaxgeo.uncertainty.Posterior` for everything else; None if there are too few data for a
        covariance.
    """

    popt: PyTree
    pcov: Float[np.ndarray, "K K"]
    stderr: PyTree
    cost: float
    outcome: Outcome
    message: str
    num_steps: int
    names: list[str]
    unfixed: list[str]
    active: list[str]
    starts: list[Start]
    posterior: Posterior | None
    curve: "Curve"

    def __iter__(self) -> Iterator[Any]:
        yield self.popt
        yield self.pcov

    def predict(self, x: ArrayLike) -> Prediction:
        """The curve at new points with its uncertainty, like `Posterior.predict`.

        **Arguments:**

        - `x`: points in the shape that `f` takes; any number of them.

        **Raises:** `ValueError` if there were too few data for a covariance.
        """
        if self.posterior is None:
            raise ValueError("there are no more data than parameters, so the uncertainty of the curve is unknown.")
        inputs = jnp.asarray(x, jnp.result_type(*jax.tree.leaves(self.posterior.trainable)))
        found = self.posterior.predict_all(self.curve.arrange(inputs), self.curve)
        assert isinstance(found, Prediction)
        return found

    def __str__(self) -> str:
        """How the fit ended, and a table of the parameters with their standard errors."""
        reason = f", as {self.message}" if self.message else ""
        lines = [f"{self.outcome.value} after {self.num_steps} steps, cost {self.cost:.6g}{reason}"]
        trainable = [np.ravel(leaf) for leaf in jax.tree.leaves(_matching(self.popt, self.stderr))]
        errors = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self.stderr)])
        width = max(map(len, self.names))
        for name, value, error in zip(self.names, np.concatenate(trainable), errors, strict=True):
            lines.append(f"{name:<{width}}  {value:.6g} ± {error:.2g}")
        if self.starts:
            lines.append(told_of(self.starts))
        return "\n".join(lines)


class Curve(eqx.Module):
    """f at all points at once, as SciPy calls it, with the points along the first axis of the samples.

    - `unpacks`: whether `f` takes the parameters as separate arguments.
    - `axis`: the axis of x that holds the points.
    """

    f: Callable[..., Array]
    unpacks: bool = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def arrange(self, x: Array) -> Array:
        """x with the points along the first axis."""
        return jnp.moveaxis(x, self.axis, 0)

    def __call__(self, params: PyTree, inputs: Array) -> Array:
        x = jnp.moveaxis(inputs, 0, self.axis)
        return jnp.asarray(self.f(x, *params) if self.unpacks else self.f(x, params))


class _Whitened(eqx.Module):
    """L⁻¹f, for correlated targets with covariance LLᵀ."""

    curve: Curve
    lower: Float[Array, "M M"]

    def __call__(self, params: PyTree, inputs: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(self.lower, jnp.ravel(self.curve(params, inputs)), lower=True)


def curve_fit(
    f: Callable[..., Array],
    x: ArrayLike,
    y: ArrayLike,
    p0: PyTree,
    *,
    sigma: ArrayLike | None = None,
    absolute_sigma: bool = False,
    bounds: Any = None,
    starts: Sequence[PyTree] | int | None = None,
    trainable: PyTree = is_trainable_leaf,
    max_steps: int = 1000,
) -> CurveFit:
    """Fit the parameters of `f` to the data `y` by nonlinear least squares, and estimate their covariance.

    The interface is that of SciPy's `curve_fit`, but parameters may form any pytree. The method is Levenberg–Marquardt
    with exact derivatives, down to round-off of the dtype. The fit ends by the criteria of `jaxgeo.optim.Ends`.

    **Arguments:**

    - `f`: `f(x, *p)` for a 1-d array, list or tuple `p0`, as in SciPy, and `f(x, p)` for any other pytree. It gets all
        points at once, and must use `jax.numpy`.
    - `x`: the points, of shape (M,), (k, M) or (M, …), as `f` takes them.
    - `y`: the data, of shape (M,) or (M, …).
    - `p0`: the initial parameters, an array or any pytree of numbers.
    - `sigma`: standard deviations of `y`, of shape (M,), or its covariance, of shape (M, M).
    - `absolute_sigma`: whether `sigma` has the unit of `y`. If not, the default, `sigma` is only relative, and its
        scale is estimated from the residuals.
    - `bounds`: (low, high), each a number, an array, or a pytree prefix of `p0`; ∞ for no bound. As in SciPy, the
        covariance ignores the bounds.
    - `starts`: more initial parameters like `p0`, or how many to draw uniformly between `bounds`. All are fitted in one
        program. The fit with the lowest cost is returned, and its `starts` describes the end of each.
    - `trainable`: which leaves of `p0` to fit, as for `jaxgeo.Problem`.
    - `max_steps`: give up after this number of updates.

    **Returns:** a `CurveFit`, which unpacks to `popt, pcov`. A parameter that the data do not fix has an infinite
    variance and appears in `unfixed`. If there are no more data than parameters, all variances are infinite, and a
    warning says so.

    **Raises:** `ValueError` if the data cannot be used, if the cost at `p0` is not finite, if `p0` is not within
    `bounds`, or if there are bounds but no more data than parameters.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> def decay(t, size, rate):
    ...     return size * jnp.exp(-rate * t)
    >>> t = jnp.array([0.0, 0.5, 1.0, 1.5, 2.0])
    >>> popt, pcov = jg.curve_fit(decay, t, jnp.array([2.1, 1.2, 0.8, 0.4, 0.3]), [1.0, 1.0])
    >>> [round(float(each), 4) for each in popt], [round(float(each), 4) for each in jnp.sqrt(jnp.diag(pcov))]
    ([2.0865, 1.03], [0.0507, 0.0487])

    ```
    """
    check_function("f", f)
    check_count("max_steps", max_steps)
    params, unpacks = _start(p0)
    dtype = jnp.result_type(*jax.tree.leaves(eqx.filter(params, is_trainable_leaf)))
    targets = as_real("y", y).astype(dtype)
    points = as_real("x", x).astype(dtype)
    if targets.ndim == 0 or points.ndim == 0 or len(targets) not in (points.shape[-1], points.shape[0]):
        raise ValueError(
            f"`x` and `y` must have the same number of points; got shapes {points.shape} and {targets.shape}."
        )
    curve = Curve(f, unpacks, points.ndim - 1 if points.shape[-1] == len(targets) else 0)
    apply, cost = _weighted(curve, targets, sigma)
    problem = Problem(apply, curve.arrange(points), cost, trainable=trainable, per_sample=False)
    problem.check(params)
    if not np.isfinite(first := float(problem.cost(params))):
        raise ValueError(
            f"the cost at `p0` is {first}; start closer to the solution, or with parameters that do not overflow."
        )
    box = _read_bounds(bounds, problem.partition(params)[0])
    several = [] if starts is None else read_starts(starts, problem, params, box)
    popt, steps, ending, led = _fit_best(problem, [params, *several], box, max_steps)
    outcome = ending.outcome or Outcome.MAX_STEPS
    kept, _ = problem.partition(popt)
    names = _names(f, kept, unpacks)
    size, cost_value = len(names), float(problem.cost(popt)) * problem.num_samples
    found = None
    if outcome is not Outcome.FAILED and (absolute_sigma or problem.num_rows(popt) > size):
        found = posterior(problem, popt, noise=1.0 if absolute_sigma else None)
        pcov, stderr = found.covariance(), found.standard_errors()
        unfixed = [name for name, variance in zip(names, np.diag(pcov), strict=True) if np.isinf(variance)]
    else:
        warnings.warn(
            f"{problem.num_rows(popt)} data cannot determine the covariance of {size} parameters; it is infinite.",
            stacklevel=2,
        )
        pcov, stderr = np.full((size, size), np.inf), jax.tree.map(lambda leaf: np.full(leaf.shape, np.inf), kept)
        unfixed = names
    reached = np.zeros(size, bool) if box is None else np.logical_or(*box.reached(kept))
    active = [name for name, at in zip(names, reached, strict=True) if at]
    return CurveFit(
        popt, pcov, stderr, cost_value, outcome, ending.words, steps, names, unfixed, active,
        led if several else [], found, curve,
    )  # fmt: skip


class _Progress(eqx.Module):
    params: Params
    state: Any
    steps: Int[Array, ""]


def _fit_best(
    problem: Problem, starts: list[Params], bounds: Bounds | None, max_steps: int
) -> tuple[Params, int, Ending, list[Start]]:
    """The final parameters of lowest cost, the number of steps, the `Ending`, and the result of each start."""
    arrays, static = eqx.partition(starts[0], eqx.is_array)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[eqx.filter(start, eqx.is_array) for start in starts])
    # Do not vmap a single start: vmap would compute both branches of each decision.
    found, steps, codes, costs = (
        jax.tree.map(lambda leaf: leaf[None], _fit(problem, arrays, static, bounds, max_steps))
        if len(starts) == 1
        else eqx.filter_vmap(_fit, in_axes=(None, 0, None, None, None))(problem, stacked, static, bounds, max_steps)
    )
    costs = np.asarray(costs, float) * problem.num_samples
    best = int(np.argmin(np.where(np.isfinite(costs), costs, np.inf)))
    led = [
        Start(float(cost), Ending(int(code)).outcome or Outcome.MAX_STEPS, Ending(int(code)).words, int(count))
        for cost, code, count in zip(costs, codes, steps, strict=True)
    ]
    popt = eqx.combine(jax.tree.map(lambda leaf: leaf[best], found), static)
    return popt, int(steps[best]), Ending(int(codes[best])), led


@eqx.filter_jit
def _fit(
    problem: Problem, arrays: PyTree, static: PyTree, bounds: Bounds | None, max_steps: int
) -> tuple[PyTree, Int[Array, ""], Int[Array, ""], Float[Array, ""]]:
    """The parameters at the end, the number of steps, the `Ending`, 0 after all steps, and the cost."""
    optimizer = adapted_levenberg_marquardt(trust_region=TrustRegion(bounds=bounds))
    still = jax.tree.map(jnp.zeros_like, arrays)

    def step(progress: _Progress) -> _Progress:
        whole = eqx.combine(progress.params, static)
        updates, state = optimizer.update(still, progress.state, whole, problem=problem)
        moved = eqx.filter(optax.apply_updates(progress.params, updates), eqx.is_array)
        return _Progress(moved, state, progress.steps + 1)

    def goes_on(progress: _Progress) -> Array:
        return (progress.state.ends.ending == 0) & (progress.steps < max_steps)

    first = _Progress(arrays, optimizer.init(eqx.combine(arrays, static)), jnp.zeros((), jnp.int32))
    last = jax.lax.while_loop(goes_on, step, first)
    return last.params, last.steps, last.state.ends.ending, problem.cost(eqx.combine(last.params, static))


def _start(p0: PyTree) -> tuple[PyTree, bool]:
    """Parameters as floating-point arrays, and whether `f` takes them as separate arguments."""

    def number(leaf: Any) -> Any:
        if not eqx.is_array_like(leaf) or isinstance(leaf, bool):
            return leaf
        array = jnp.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)

    if isinstance(p0, list | tuple) and p0 and all(np.ndim(each) == 0 and eqx.is_array_like(each) for each in p0):
        return number(np.asarray(p0)), True
    params = jax.tree.map(number, p0)
    if not jax.tree.leaves(eqx.filter(params, is_trainable_leaf)):
        raise ValueError(f"`p0` must hold the initial parameters, at least one number; got {p0!r}.")
    return params, isinstance(params, list | tuple) or (eqx.is_array(params) and params.ndim == 1)


def _weighted(curve: Curve, targets: Array, sigma: ArrayLike | None) -> tuple[Any, L2 | WeightedL2]:
    if sigma is None:
        return curve, L2(targets)
    deviations = as_real("sigma", sigma).astype(targets.dtype)
    if deviations.shape == targets.shape:
        if not bool(jnp.all(deviations > 0)):
            raise ValueError(f"`sigma` must be positive; its smallest entry is {float(deviations.min())}.")
        return curve, WeightedL2(targets, deviations.reshape(len(targets), -1) ** -2)
    if targets.ndim != 1 or deviations.shape != (len(targets),) * 2:
        raise ValueError(f"`sigma` must have the shape of `y`, {targets.shape}, or (M, M); got {deviations.shape}.")
    lower = jnp.linalg.cholesky(deviations)
    if not bool(jnp.all(jnp.isfinite(lower))):
        raise ValueError("`sigma` of shape (M, M) is the covariance of `y`, so it must be positive definite.")
    return _Whitened(curve, lower), L2(jax.scipy.linalg.solve_triangular(lower, targets, lower=True))


def _names(f: Callable[..., Array], trainable: PyTree, unpacks: bool) -> list[str]:
    """Names of the parameters: the arguments of `f` if it takes them separately, else their paths in the pytree."""
    names = entry_names(trainable)
    if not unpacks or not eqx.is_array(trainable):
        return names
    try:
        arguments = list(inspect.signature(f).parameters.values())[1:]
    except (TypeError, ValueError):
        return names
    if len(arguments) != len(names) or any(each.kind is not each.POSITIONAL_OR_KEYWORD for each in arguments):
        return names
    return [each.name for each in arguments]


def _matching(params: PyTree, errors: PyTree) -> PyTree:
    """The leaves of `params` that have a standard error."""
    return jax.tree.map(
        lambda error, leaf: None if error is None else leaf, errors, params, is_leaf=lambda leaf: leaf is None
    )


def _read_bounds(bounds: Any, trainable: PyTree) -> Bounds | None:
    if bounds is None:
        return None
    if eqx.is_array(trainable) and isinstance(bounds, tuple | list):
        # SciPy treats lists of numbers as an array.
        bounds = [np.asarray(each, float) for each in bounds]
    return read_bounds(bounds, trainable, entry_names(trainable), "p0")
