"""Try fractions of a step, corrected for the curvature of the network, before one is taken; differentiable."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo.linalg.linearisation import Linearisation, Trial
from jaxgeo.linalg.refinement import refined
from jaxgeo.linalg.tangents import freeze, norm, tangent_of
from jaxgeo.optim.acceleration import Accelerated

# Take a step only if the cost falls by at least this fraction of the predicted decrease.
LEAST_GAIN = 1e-4
# Try so many times the fraction of a step that halving found.
LONGER = 1.5


class Arrival(NamedTuple):
    """The end of a partial step: the rows still missing from its target, and the outputs."""

    missing: Float[Array, "rows R"]
    outputs: Float[Array, "N Q"]


class _CorrectArrival(eqx.Module):
    correct: Callable[[Float[Array, "rows R"]], PyTree]

    def __call__(self, ending: Arrival) -> PyTree:
        return self.correct(ending.missing)


class Attempt(eqx.Module):
    """Evaluates a given fraction of a step, with at most `most` corrections for the curvature of the network.

    The linearisation moves the outputs along a straight line, and the nonlinear network departs from it. A correction
    lifts the difference at the end of the line, which takes a forward pass but no new D. Corrections continue while
    each halves the difference, and while the difference exceeds a tenth of the residual expected at the end.

    With `accelerated`, corrections are combined by Anderson acceleration. They go on, up to `most`, even where they do
    not halve the difference, and the end with the lowest cost counts. This takes longer steps where the network bends
    so much that plain corrections diverge, and pays where a new D takes as long as many forward passes.

    The derivative, in either mode, is that of the program with the number of corrections that were made. It is 0 if
    the trial is not finite.

    Reference: T. Chen, P. Muñoz Ewald, Gradient flow in parameter space is equivalent to linear interpolation in
    output space, 2024, arXiv 2408.01517, for the straight line

    - `line`: the intended change of the rows, by default D times the step; None without corrections.
    - `correct`: a module that lifts rows; it is differentiated as a whole. None for no corrections.
    - `allowed`: whether corrections are permitted at all.
    - `accelerated`: whether corrections are combined.
    """

    linear: Linearisation
    step: PyTree
    line: Float[Array, "rows R"] | None
    correct: Callable[[Float[Array, "rows R"]], PyTree] | None
    most: int = eqx.field(static=True)
    allowed: bool | Bool[Array, ""]
    accelerated: bool = eqx.field(static=True)

    def __init__(
        self,
        linear: Linearisation,
        step: PyTree,
        correct: Callable[[Float[Array, "rows R"]], PyTree] | None = None,
        most: int = 0,
        *,
        line: Float[Array, "rows R"] | None = None,
        allowed: bool | Bool[Array, ""] = True,
        accelerated: bool = False,
    ):
        if not accelerated and linear.jacobian.in_size() < linear.jacobian.out_size():
            # Most of what is missing cannot be reached, so corrections would not halve it.
            correct = None
        self.linear, self.step, self.correct = linear, step, correct
        self.line = linear.jacobian.mv(step) if line is None and correct is not None else line
        self.most, self.allowed, self.accelerated = most, allowed, accelerated

    def __call__(self, fraction: Float[Array, ""]) -> Trial:
        """The trial of `fraction` times the step; the fraction is not differentiated."""
        return _tried(self, freeze(fraction))[0]

    def with_corrections(self, fraction: Float[Array, ""]) -> tuple[Trial, Int[Array, ""]]:
        """The trial, and the number of corrections made."""
        start = scaled(fraction, self.step)
        aim = None if self.line is None else fraction * self.line
        if aim is None or self.correct is None:
            return self.linear.move(start, aim), jnp.zeros((), jnp.int32)

        def arrive(part: PyTree) -> Arrival:
            outputs = self.linear.outputs_at(part)
            return Arrival(aim - self.linear.measure(outputs - self.linear.outputs), outputs)

        def measure(part: PyTree) -> tuple[Arrival, Float[Array, ""], None]:
            arrival = arrive(part)
            return arrival, norm(arrival.missing), None

        def judge(part: PyTree) -> tuple[Array, Float[Array, "rows R"], Float[Array, ""]]:
            arrival = arrive(part)
            return arrival.outputs, arrival.missing, self.linear.problem.loss(arrival.outputs)

        most = self.most if self.allowed is True else jnp.where(self.allowed, self.most, 0)
        enough = 0.1 * norm(self.linear.residual + aim)
        if self.accelerated and self.most > 0:
            way = Accelerated(self.correct, self.linear.jacobian.mv)
            found = way.run(start, judge, most, self.most, enough)
            return self.linear.move(found.step, aim, found.arrival), found.corrections
        end = refined(start, _CorrectArrival(self.correct), measure, most, enough)
        return self.linear.move(end.value, aim, end.defect.outputs), end.corrections

    def repeat(self, fraction: Float[Array, ""], count: Int[Array, ""]) -> Trial:
        """The same for a known number of corrections. It makes no decisions, so both modes can differentiate it."""
        value, correct = scaled(fraction, self.step), self.correct
        aim = None if self.line is None else fraction * self.line
        if aim is None or correct is None:
            return self.linear.move(value, aim)

        if self.accelerated and self.most > 0:
            way = Accelerated(correct, self.linear.jacobian.mv)

            def follow(now: tuple, index: Int[Array, ""]) -> tuple[tuple, None]:
                def further(now: tuple) -> tuple:
                    return way.next_step(now[0], self._missing(now[0], aim), now[1])[:2]

                return jax.lax.cond(index < count, further, lambda now: now, now), None

            now = value, way.forget(value, aim.size, self.most)
            now, _ = jax.lax.scan(follow, now, jnp.arange(self.most, dtype=jnp.int32))
            return self.linear.move(now[0], aim)

        def add(part: PyTree) -> PyTree:
            return jax.tree.map(jnp.add, part, correct(self._missing(part, aim)))

        def next_part(part: PyTree, index: Int[Array, ""]) -> tuple[PyTree, None]:
            return jax.lax.cond(index < count, add, lambda part: part, part), None

        value, _ = jax.lax.scan(next_part, value, jnp.arange(self.most, dtype=jnp.int32))
        return self.linear.move(value, aim)

    def _missing(self, part: PyTree, aim: Float[Array, "rows R"]) -> Float[Array, "rows R"]:
        return aim - (self.linear.rows_at(part) - self.linear.jacobian.outputs)


@eqx.filter_custom_jvp
def _tried(attempt: Attempt, fraction: Float[Array, ""]) -> tuple[Trial, Int[Array, ""]]:
    return attempt.with_corrections(fraction)


@_tried.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    attempt, fraction = primals
    trial, count = _tried(attempt, fraction)

    def moved() -> Trial:
        return tangent_of(lambda attempt: attempt.repeat(fraction, count), attempt, tangents[0])

    # A trial that is not finite is never taken, but NaN times 0 would put NaN into a gradient.
    still = jax.tree.map(jnp.zeros_like, eqx.filter(trial, eqx.is_inexact_array))
    return (trial, count), (jax.lax.cond(trial.finite, moved, lambda: still), None)


def scaled(factor: Float[Array, ""], tree: PyTree) -> PyTree:
    """A pytree times a number, in its own dtypes."""
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, tree)


class Tried(NamedTuple):
    """The result of trying a step.

    - `step`: the whole step.
    - `trial`: the last trial; its step is 0 unless it was accepted.
    - `fraction`: the fraction of the step that was taken; 0 unless the trial was accepted.
    - `accepted`: whether the last trial was good.
    - `gain_ratio`: gain ratio of the last trial, even if it was rejected.
    """

    step: PyTree
    trial: Trial
    fraction: Float[Array, ""]
    accepted: Bool[Array, ""]
    gain_ratio: Float[Array, ""]


def shorten(
    attempt: Attempt,
    good: Callable[[Trial], Bool[Array, ""]],
    halvings: int = 30,
    first: Float[Array, ""] | None = None,
) -> Tried:
    """Try the whole step, then half, a quarter, …: the first that is `good`, down to 2 to the power of −`halvings`.

    **Arguments:**

    - `good`: a function or a module; it is not differentiated.
    - `first`: try this fraction first, then half of it, …. Once one is good, try `LONGER` times it too, at most the
        whole step, and take that if it is good and its cost is lower. None to begin with the whole step, and to take
        the first that is good.
    """
    fraction, trial, accepted = _shortened(attempt, good, halvings, first)
    taken, fraction = trial.taken_if(accepted, attempt.linear), jnp.where(accepted, fraction, 0)
    return Tried(attempt.step, taken, fraction, accepted, trial.gain_ratio)


_Last = tuple[Float[Array, ""], Trial, Bool[Array, ""]]


class _Search(NamedTuple):
    """The fraction to try next; the fraction and trial that count so far, whether it is good; and whether to go on."""

    following: Float[Array, ""]
    fraction: Float[Array, ""]
    trial: Trial
    accepted: Bool[Array, ""]
    goes_on: Bool[Array, ""]


@eqx.filter_custom_jvp
def _shortened(
    attempt: Attempt, good: Callable[[Trial], Bool[Array, ""]], halvings: int, first: Float[Array, ""] | None
) -> _Last:
    one = jnp.ones((), attempt.linear.outputs.dtype)
    if halvings == 0:
        trial = attempt(one)
        return one, trial, good(trial)

    # One loop for all trials, so that the trial is compiled only once.
    def advance(search: _Search) -> _Search:
        fraction, trial = search.following, attempt(search.following)
        fits = good(trial)
        if first is None:
            return _Search(fraction / 2, fraction, trial, fits, ~fits & (fraction > 2.0**-halvings))
        earliest = ~search.accepted
        counts = earliest | (fits & (trial.cost < search.trial.cost))
        tried, best = (fraction, trial), (search.fraction, search.trial)
        fraction_kept, trial_kept = jax.tree.map(partial(jnp.where, counts), tried, best)
        goes_on = earliest & jnp.where(fits, fraction < 1, fraction > 2.0**-halvings)
        following = jnp.where(fits, jnp.minimum(LONGER * fraction, 1), fraction / 2)
        return _Search(following, fraction_kept, trial_kept, search.accepted | fits, goes_on)

    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), eqx.filter_eval_shape(attempt, one))
    begin = one if first is None else first.astype(one.dtype)
    start = _Search(begin, one, blank, jnp.zeros((), bool), jnp.ones((), bool))
    end = jax.lax.while_loop(lambda search: search.goes_on, advance, start)
    return end.fraction, end.trial, end.accepted


@_shortened.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[_Last, tuple]:
    attempt = primals[0]
    fraction, trial, accepted = _shortened(*primals)
    # The fraction is a decision without derivative, so only the trial has a tangent.
    moved = tangent_of(lambda attempt: attempt(fraction), attempt, tangents[0])
    return (fraction, trial, accepted), (None, moved, None)


def is_worth_taking(trial: Trial) -> Bool[Array, ""]:
    """Whether a trial is finite and lowers the cost by more than `LEAST_GAIN` of the predicted decrease."""
    return trial.finite & (trial.gain_ratio >= LEAST_GAIN)


def shorten_growth(attempt: Attempt, factor: float | Float[Array, ""], halvings: int = 30) -> Tried:
    """`shorten` a step until its cost is finite and at most `factor` times the present cost."""
    cost = attempt.linear.cost
    limit = jnp.asarray(factor, cost.dtype) * cost + jnp.finfo(cost.dtype).tiny
    return shorten(attempt, eqx.Partial(_costs_at_most, limit), halvings)


def _costs_at_most(limit: Float[Array, ""], trial: Trial) -> Bool[Array, ""]:
    return trial.finite & (trial.cost <= limit)
