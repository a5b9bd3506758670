"""Steps for a D that has lost numerical rank: through its singular values above an adaptive cut-off."""

import functools
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import check_count, check_positive
from jaxgeo.linalg.linearisation import Linearisation, Trial
from jaxgeo.linalg.low_rank import leading_singular_values
from jaxgeo.linalg.refinement import accumulated_eps
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.linalg.solvers.base import DECOMPOSED, conclude
from jaxgeo.linalg.spectra import reciprocal_condition
from jaxgeo.linalg.tangents import norm
from jaxgeo.optim.attempt import Attempt, Tried, is_worth_taking
from jaxgeo.optim.info import StepInfo
from jaxgeo.optim.scaling import column_norms
from jaxgeo.optim.way import AbstractWay, Proposal

# A full decomposition takes as long as one of so many times fewer directions, which also needs products with D.
WHOLE = 1.25
# The weight of the last step in the mean decrease of the cost by damped steps.
LAST = 0.3
# The mean before the first damped step, and after D has turned out not to be of low rank.
UNKNOWN, SLOW = -1.0, -100.0


class FineRule(NamedTuple):
    """How the fine step is corrected, and how its cut-off follows what was taken of it; see `RankCutoff`."""

    good: float
    bad: float
    increase: float
    corrections: int


PLAIN = FineRule(good=0.25, bad=2.0**-6, increase=10.0, corrections=8)
ACCELERATED = FineRule(good=0.5, bad=0.125, increase=3.0, corrections=20)


class CutState(NamedTuple):
    """Carried from step to step; cut-offs are relative to the largest singular value.

    - `fine`: cut-off of the step that is halved until it lowers the cost.
    - `coarse`: cut-off of the step that is tried whole.
    - `radius`: bound on the coarse step's part through singular values below its cut-off; 0 before the first step.
    - `pace`: recent mean of log(new cost / cost) of damped steps.
    """

    fine: Float[Array, ""]
    coarse: Float[Array, ""]
    radius: Float[Array, ""]
    pace: Float[Array, ""]


class RankCutoff(AbstractWay):
    """A step through the singular values above a cut-off, corrected for the curvature of the network's outputs.

    It reaches much lower costs than damping in networks with fewer parameters than outputs, where the singular values
    of D can fall below double precision, evenly in their logarithm. There, damped steps creep along most directions,
    and a fixed cut-off either leaves much of the cost or demands steps that are far too long. So two steps are tried at
    each point. They share the singular values and need only forward passes:

    - The *fine* step goes through the values above a fine cut-off, and is halved until the cost falls. Its cut-off
      follows how much of the last fine step could be taken.
    - The *coarse* step goes through the values above a coarse cut-off and is not halved. A damped lift of bounded
      length through all other values is added. It is taken if the fine step lowers the cost by less than `enough` and
      the coarse step lowers it more. This happens along the floor of a flat, curved valley, where the fine step is
      halved many times. The corrections hold the outputs that the coarse directions reach, while the parameters move
      along the others.

    Corrections through the same singular values allow steps that are longer by orders of magnitude.

    If D has more than 1024 columns, only the leading singular values are computed, as many as the fine cut-off needs:
    more from the next step on if the rest of D exceeds the cut-off, fewer if fewer suffice. As this
    takes long, steps are damped at first, as long as they halve the cost in the time of a step through a cut-off. The
    corrections of the fine step are then combined by Anderson acceleration.

    Paper: (4.5)

    **Arguments:**

    - `least`: with fewer parameters than this, use the trust region even if D has lost rank. The trust region copes
        with the few directions of a small curve fit, where steps through a cut-off would leave some parameters without
        influence.
    - `deficient`: D has lost rank if its smallest singular value, with its columns scaled, is at most `deficient` times
        the largest, or at most QN eps times it.
    - `initial`: the first cut-offs, relative to the largest singular value.
    - `decrease`: factor by which the fine cut-off falls, down to QN eps, after a step of which at least the fraction
        `good` was taken, by default a quarter, or half with accelerated corrections.
    - `increase`: factor by which the fine cut-off rises, up to `maximum`, after a step of which at most the fraction
        `bad` was taken: by default 10 and 1/64, or 3 and an eighth with accelerated corrections.
    - `enough`: the relative decrease of the cost below which the coarse step may be taken instead.
    - `coarse_decrease`, `coarse_increase`: factors by which the coarse cut-off falls after a step that does not raise
        the cost, and rises after a step that does.
    - `halvings`, `corrections`: the most halvings and corrections in a step; by default 20 halvings and 8 corrections,
        or 20 in an accelerated fine step.
    - `directions`: the fewest and the most singular values to compute, if not all are computed.
    - `slow`: the largest remainder of D beyond the most directions, relative to the largest singular value. If the
        remainder is larger, D is not of low rank, and steps are damped again.
    """

    least: int = eqx.field(static=True, default=32)
    deficient: float = 1e-8
    initial: float = 1e-3
    decrease: float = 3.0
    increase: float | None = None
    good: float | None = None
    bad: float | None = None
    maximum: float = 1e-2
    enough: float = 0.03
    coarse_decrease: float = 1.25
    coarse_increase: float = 3.0
    halvings: int = eqx.field(static=True, default=20)
    corrections: int | None = eqx.field(static=True, default=None)
    directions: tuple[int, int] = eqx.field(static=True, default=(128, 1024))
    slow: float = 1e-5

    def __check_init__(self):
        for name, value in vars(self).items():
            if name in FineRule._fields and value is None:
                continue
            if name == "directions":
                least, most = value
                check_count("directions[0]", least)
                check_count("directions[1]", most, least=least)
            elif name in ("least", "halvings", "corrections"):
                check_count(name, value, least=0)
            else:
                check_positive(name, value)

    def init(self, dtype: jnp.dtype) -> CutState:
        """Before the first step; a radius of 0 stands for the length of the first coarse step."""
        fine, coarse, radius, pace = (jnp.array(value, dtype) for value in (self.initial, self.initial, 0.0, UNKNOWN))
        return CutState(fine, coarse, radius, pace)

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
        self, matrix: Float[Array, "rows K"], fine: Float[Array, ""], rung: Int[Array, ""], count: Int[Array, ""]
    ) -> tuple[SingularValues, Int[Array, ""]]:
        """The leading singular values of D at this rung of the ladder, and the next rung; −1 if D is not of low rank.

        Each `count` draws new random vectors.
        """
        ladder = self.ladder(*matrix.shape)
        rung = jnp.clip(rung, 0, len(ladder) - 1)
        svd, rest = leading_singular_values(matrix, ladder, rung, jax.random.fold_in(jax.random.key(0), count))
        rest, fine = rest / svd.unit, fine.astype(rest.dtype)
        below = jnp.maximum(rung - 1, 0)
        suffices = svd.relative()[jnp.asarray(ladder)[below] - 1] < 0.1 * fine
        following = jnp.where(rest > fine, rung + 1, jnp.where(suffices, below, rung))
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
        reached = 1e-2 * jnp.sqrt(info.damping).astype(state.fine.dtype)
        fine = jnp.where(goes_on, state.fine, jnp.minimum(state.fine, reached))
        top = len(self.ladder(*shape)) - 1
        return state._replace(fine=fine, pace=pace), jnp.where(goes_on, -1, top).astype(jnp.int32)

    def propose(self, linear: Linearisation, by: SingularValues, state: CutState) -> Proposal:
        """The step through the singular values above the fine cut-off.

        The singular values are those of D without column scaling, which would give small columns as much weight as
        large ones.
        """
        fine, coarse = by.kept(state.fine), by.kept(state.coarse)
        # Where a decomposition takes as long as many corrections, these may be many.
        accelerated = linear.jacobian.in_size() > self.directions[1] and self.corrections != 0
        rule = self._rule(accelerated)
        attempt = self._through(linear, by, fine, accelerated=accelerated)

        def learn(tried: Tried) -> tuple[Tried, LiftInfo, CutState]:
            """Take one of the coarse steps instead, if it lowers the cost much more."""
            step, trial, fraction, accepted, _ = tried
            whole, beyond, radius = self._beyond(linear, by, coarse, state.radius.astype(linear.cost.dtype))
            lowers = whole.finite & (whole.cost <= linear.cost)
            good, bad = fraction >= rule.good, fraction <= rule.bad
            factor = jnp.where(bad, rule.increase, jnp.where(good, 1 / self.decrease, 1))
            coarse_factor = jnp.where(lowers, 1 / self.coarse_decrease, self.coarse_increase)
            lowest, dtype = min(by.round_off, self.maximum), state.fine.dtype
            following = state._replace(
                fine=jnp.clip(state.fine * factor.astype(dtype), lowest, self.maximum),
                coarse=jnp.clip(state.coarse * coarse_factor.astype(dtype), lowest, self.maximum),
                radius=jnp.where(lowers, radius.astype(dtype), state.radius),
            )

            slow, count = trial.cost > (1 - self.enough) * linear.cost, jnp.sum(fine, dtype=jnp.int32)
            for other in (whole, beyond):
                better = slow & is_worth_taking(other) & (other.cost < trial.cost)
                trial = jax.tree.map(functools.partial(jnp.where, better), other, trial)
                fraction, accepted = jnp.where(better, 1, fraction), accepted | better
                count = jnp.where(better, jnp.sum(coarse, dtype=jnp.int32), count)
            _, report = conclude(linear.jacobian, trial.step, -linear.residual, jnp.asarray(DECOMPOSED), count)
            return Tried(step, trial, fraction, accepted, trial.gain_ratio), report, following

        still = jnp.zeros((), linear.outputs.dtype)
        return Proposal(attempt, self.halvings, still, learn, searched=False, lengthens=True)

    def _rule(self, accelerated: bool) -> FineRule:
        """What was asked for, and the defaults for the rest."""
        default = ACCELERATED if accelerated else PLAIN
        asked = {name: value for name in FineRule._fields if (value := getattr(self, name)) is not None}
        return default._replace(**asked)

    def _beyond(
        self, linear: Linearisation, svd: SingularValues, coarse: Bool[Array, " r"], radius: Float[Array, ""]
    ) -> tuple[Trial, Trial, Float[Array, ""]]:
        """The coarse step, the coarse step plus a damped step through the rest, and the next radius.

        The radius doubles or shrinks according to the gain ratio of the step through the rest.
        """
        aim = -linear.residual.reshape(-1)
        one = jnp.ones((), radius.dtype)
        whole = self._through(linear, svd, coarse)(one)
        radius = jnp.where(radius > 0, radius, norm(svd.lift(aim, coarse)))
        rest = svd.damped_lift(aim, svd.damping_for_length(aim, radius, ~coarse), ~coarse)
        beyond = self._through(linear, svd, coarse, rest)(one)

        length = norm(rest)
        predicted = beyond.predicted - whole.predicted
        gain = (whole.cost - beyond.cost) / jnp.where(predicted > 0, predicted, 1)
        larger = jnp.where(gain >= 0.75, jnp.maximum(radius, 2 * length), radius)
        following = jnp.where(gain > 0.25, larger, 0.35 * length)
        return whole, beyond, jnp.where(length > 0, following, radius)

    def _through(
        self,
        linear: Linearisation,
        svd: SingularValues,
        kept: Bool[Array, " r"],
        rest: Float[Array, " K"] | None = None,
        *,
        accelerated: bool = False,
    ) -> Attempt:
        """A step through the kept directions, with `rest` added, and corrected through the kept directions."""
        step = svd.lift(-linear.residual.reshape(-1), kept)
        whole = linear.jacobian.unravel(step if rest is None else step + rest)
        through = _Through(linear.trainable, svd, kept)
        most = self._rule(accelerated).corrections
        return Attempt(linear, whole, through.lift, most, size=through.size, accelerated=accelerated)


class _Through(eqx.Module):
    """Lifts rows through the kept directions."""

    trainable: PyTree
    svd: SingularValues
    kept: Bool[Array, " r"]

    def lift(self, rows: Float[Array, "rows R"]) -> PyTree:
        return ravel_pytree(self.trainable)[1](self.svd.lift(rows.reshape(-1), self.kept))

    def size(self, rows: Float[Array, "rows R"]) -> Float[Array, ""]:
        return jnp.linalg.norm(jnp.where(self.kept, self.svd.coefficients(rows.reshape(-1)), 0))
