"""Steps for a D that has lost numerical rank: through its singular values above an adaptive cut-off."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import check_count, check_positive
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.linearisation import Linearisation
from jaxgeo.linalg.low_rank import leading_singular_values
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.linalg.solvers.base import DECOMPOSED, conclude
from jaxgeo.linalg.spectra import reciprocal_condition
from jaxgeo.linalg.tangents import norm
from jaxgeo.optim.attempt import Attempt, Tried
from jaxgeo.optim.info import StepInfo
from jaxgeo.optim.scaling import column_norms
from jaxgeo.optim.way import AbstractWay, Proposal

# A full decomposition takes as long as one of so many times fewer directions, which also needs products with D.
WHOLE = 1.25
# The weight of the last step in the mean decrease of the cost by damped steps.
LAST = 0.3
# The mean before the first damped step, and after D has turned out not to be of low rank.
UNKNOWN, SLOW = -1.0, -100.0
# Try a step at first at so many times the fraction that was taken of the last one.
GROWTH = 4.0


class CutState(NamedTuple):
    """Carried from step to step.

    - `relative`: the cut-off of the next step, relative to the largest singular value.
    - `pace`: recent mean of log(new cost / cost) of damped steps.
    - `first`: the fraction of the next step to try first.
    """

    relative: Float[Array, ""]
    pace: Float[Array, ""]
    first: Float[Array, ""]


class RankCutoff(AbstractWay):
    """A step through the singular values above a cut-off, corrected for the curvature of the network's outputs.

    It reaches much lower costs than damping in networks with fewer parameters than outputs, where the singular values
    of D can fall below double precision, evenly in their logarithm. There, damped steps creep along most directions,
    and a fixed cut-off either leaves much of the cost or demands steps that are far too long. So the cut-off adapts: it
    falls after a step that could be taken whole or nearly so, and rises after one that had to be halved again and again
    until the cost fell.

    The cost then falls along the floor of a flat, curved valley: the small singular values ask for long steps, along
    which the network bends, and this changes the outputs that belong to the large ones most. Corrections by forward
    passes bring these back. They leave out the smallest singular values of the step, which would amplify most how D
    changes along it, and they are combined by Anderson acceleration. This makes steps possible that are longer by
    orders of magnitude.

    If D has more than 1024 columns, only the leading singular values are computed, as many as the cut-off needs: more
    from the next step on if the rest of D exceeds three times the cut-off, fewer if fewer suffice. As this takes long,
    steps are damped at first, as long as they halve the cost in the time of a step through a cut-off.

    Paper: (4.5)

    Reference: H. F. Walker, P. Ni, Anderson acceleration for fixed-point iterations, SIAM Journal on Numerical Analysis
        49, 2011, for the corrections

    **Arguments:**

    - `least`: with fewer parameters than this, use the trust region even if D has lost rank. The trust region copes
        with the few directions of a small curve fit, where steps through a cut-off would leave some parameters without
        influence.
    - `deficient`: D has lost rank if its smallest singular value, with its columns scaled, is at most `deficient` times
        the largest, or at most QN eps times it.
    - `initial`: the first cut-off, relative to the largest singular value.
    - `decrease`: factor by which the cut-off falls, down to QN eps, after a step of which at least the fraction `good`
        was taken.
    - `increase`: factor by which the cut-off rises, up to `maximum`, after a step of which at most the fraction `bad`
        was taken.
    - `margin`: corrections go through the singular values above `margin` times the cut-off, or `maximum` if that is
        less.
    - `halvings`, `corrections`: the most halvings of a step, and the most corrections each time it is tried.
    - `directions`: the fewest and the most singular values to compute, if not all are computed.
    - `slow`: the largest remainder of D beyond the most directions, relative to the largest singular value. If the
        remainder is larger, D is not of low rank, and steps are damped again.
    """

    least: int = eqx.field(static=True, default=32)
    deficient: float = 1e-8
    initial: float = 1e-3
    decrease: float = 10.0
    increase: float = 3.0
    good: float = 0.5
    bad: float = 0.125
    maximum: float = 1e-2
    margin: float = 100.0
    halvings: int = eqx.field(static=True, default=10)
    corrections: int = eqx.field(static=True, default=20)
    directions: tuple[int, int] = eqx.field(static=True, default=(128, 1448))
    slow: float = 1e-5

    def __check_init__(self):
        for name, value in vars(self).items():
            if name == "directions":
                least, most = value
                check_count("directions[0]", least)
                check_count("directions[1]", most, least=least)
            elif name in ("least", "halvings", "corrections"):
                check_count(name, value, least=0)
            else:
                check_positive(name, value)

    def init(self, dtype: jnp.dtype) -> CutState:
        return CutState(jnp.array(self.initial, dtype), jnp.array(UNKNOWN, dtype), jnp.ones((), dtype))

    def is_deficient(self, triangle: Float[Array, "K K"], rows: int) -> Bool[Array, ""]:
        """Whether D has lost rank, judged by its triangular factor with columns scaled to the same length.

        A column that has vanished belongs to a parameter without influence, and does not count as a loss of rank.
        """
        norms = column_norms(triangle)[None]
        still = jnp.eye(len(triangle), dtype=triangle.dtype)
        scaled = jnp.where(norms > 0, triangle / jnp.where(norms > 0, norms, 1), still)
        round_off = rows * float(jnp.finfo(triangle.dtype).eps)
        return reciprocal_condition(scaled) <= max(self.deficient, round_off)

    def ladder(self, rows: int, columns: int) -> tuple[int, ...]:
        """The possible numbers of directions for a D of this shape: from the fewest to the most by factors of √2.

        If D has hardly more columns, the last number is all of them, since that takes no longer.
        """
        count, most = self.directions
        most = columns if columns <= min(rows, WHOLE * most) else min(most, rows)
        counts = []
        while WHOLE * count < most:
            counts.append(count)
            count = max(count + 1, round(math.sqrt(2) * count))
        return (*counts, most)

    def leading(
        self, matrix: Float[Array, "rows K"], cutoff: Float[Array, ""], rung: Int[Array, ""], count: Int[Array, ""]
    ) -> tuple[SingularValues, Int[Array, ""]]:
        """The leading singular values of D at this rung of the ladder, and the next rung; −1 if D is not of low rank.

        Each `count` draws new random vectors.
        """
        ladder = self.ladder(*matrix.shape)
        rung = jnp.clip(rung, 0, len(ladder) - 1)
        svd, rest = leading_singular_values(matrix, ladder, rung, jax.random.fold_in(jax.random.key(0), count))
        rest, cutoff = rest / svd.unit, cutoff.astype(rest.dtype)
        below = jnp.maximum(rung - 1, 0)
        # A remainder changes a singular value σ by |remainder|²/σ at most, in a norm far below that of Frobenius.
        more = rest > 3 * cutoff
        beyond = jnp.where(jnp.arange(ladder[-1]) >= jnp.asarray(ladder)[below], svd.relative(), 0)
        suffices = norm(beyond) < cutoff
        following = jnp.where(more, rung + 1, jnp.where(suffices, below, rung))
        slow = (rung == len(ladder) - 1) & (rest > self.slow)
        return svd, jnp.where(slow, -1, jnp.minimum(following, len(ladder) - 1)).astype(jnp.int32)

    def share(self, rows: int, columns: int) -> float:
        """The flops of a damped step by DᵀD, as a share of those of a step through the most singular values."""
        count = self.ladder(rows, columns)[-1]
        damped = 2 * rows * columns**2 + columns**3 / 3
        products = 0 if count == columns else 4 * count * (rows * columns + columns * count)
        # LAPACK computes singular values with about a fifth of the speed of products.
        return damped / (products + 4 * rows * count**2 + 26 * count**3)

    def least_damping(self, rows: int, columns: int) -> float:
        """With less damping than this, relative to trace(DDᵀ)/QN, DᵀD may not be factorised in float64."""
        return 2 * rows * accumulated_eps(columns, jnp.dtype(jnp.float64))

    def after_damped(
        self, state: CutState, info: StepInfo, shape: tuple[int, int], damping: Float[Array, ""]
    ) -> tuple[CutState, Int[Array, ""]]:
        """The next state and rung after a damped step with a D of this `shape`: −1 while damped steps pay.

        A step through a cut-off is taken to halve the cost. Unless D is known not to be of low rank, damped steps also
        end when DᵀD with the next `damping` could not be factorised in float64: singular values reach lower.
        """
        fell = jnp.log(jnp.where(info.cost > 0, jnp.where(info.accepted, info.new_cost, info.cost) / info.cost, 1))
        pace = (1 - LAST) * state.pace + LAST * jnp.clip(fell, 2 * UNKNOWN, 0).astype(state.pace.dtype)
        fails = (damping < self.least_damping(*shape)) & (pace >= 2 * UNKNOWN)
        goes_on = info.accepted & ~fails & (pace < -math.log(2) * self.share(*shape))
        # The damping is in units of the mean square of singular values. Begin well below what it has reached.
        reached = 1e-2 * jnp.sqrt(info.damping).astype(state.relative.dtype)
        relative = jnp.where(goes_on, state.relative, jnp.minimum(state.relative, reached))
        top = len(self.ladder(*shape)) - 1
        return state._replace(relative=relative, pace=pace), jnp.where(goes_on, -1, top).astype(jnp.int32)

    def propose(self, linear: Linearisation, by: SingularValues, state: CutState) -> Proposal:
        """The step through the singular values above the cut-off.

        The singular values are those of D without column scaling, which would give small columns as much weight as
        large ones.
        """
        kept, firm = by.kept(state.relative), by.kept(jnp.minimum(self.margin * state.relative, self.maximum))
        step = _Through(linear.jacobian, by, kept).lift(-linear.residual)
        correct = _Through(linear.jacobian, by, firm).lift if self.corrections > 0 else None
        attempt = Attempt(linear, step, correct, self.corrections, accelerated=True)

        def learn(tried: Tried) -> tuple[Tried, LiftInfo, CutState]:
            fraction, relative = tried.fraction, state.relative
            factor = jnp.where(fraction <= self.bad, self.increase, 1)
            factor = jnp.where(fraction >= self.good, 1 / self.decrease, factor)
            following = jnp.clip(
                relative * factor.astype(relative.dtype), min(by.round_off, self.maximum), self.maximum
            )
            count = jnp.sum(kept, dtype=jnp.int32)
            _, report = conclude(
                linear.jacobian, tried.trial.step, -linear.residual, jnp.asarray(DECOMPOSED), count, is_lift=False
            )
            # Each halving takes many forward passes, so begin near the fraction that was taken.
            first = jnp.where(fraction > 0, jnp.minimum(GROWTH * fraction, 1), 1).astype(state.first.dtype)
            return tried, report, state._replace(relative=following, first=first)

        still = jnp.zeros((), linear.outputs.dtype)
        return Proposal(attempt, self.halvings, still, learn, searched=False, first=state.first)


class _Through(eqx.Module):
    """Lifts rows through the singular values that are kept."""

    jacobian: Jacobian
    svd: SingularValues
    kept: Bool[Array, " r"]

    def lift(self, rows: Float[Array, "rows R"]) -> PyTree:
        return self.jacobian.unravel(self.svd.lift(rows.reshape(-1), self.kept))
