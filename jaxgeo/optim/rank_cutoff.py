"""Steps where D has lost numerical rank: through the singular values that count, from step to step."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import check_count, check_positive
from jaxgeo.linalg.linearisation import Linearisation, Trial
from jaxgeo.linalg.low_rank import leading_singular_values
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.linalg.solvers import LiftInfo
from jaxgeo.linalg.solvers.base import DECOMPOSED, conclude
from jaxgeo.linalg.spectra import reciprocal_condition
from jaxgeo.linalg.tangents import norm
from jaxgeo.optim.attempt import Attempt, Tried, is_worth_taking
from jaxgeo.optim.scaling import column_norms
from jaxgeo.optim.way import AbstractWay, Proposal


class CutState(NamedTuple):
    """What a step through a cut-off takes over from the last; cut-offs are relative to the largest singular value.

    - `fine`: cut-off of the next step, which is halved until it lowers the cost.
    - `coarse`: cut-off of the one that is tried whole.
    - `radius`: how far that one may go through the singular values below its cut-off; 0 before the first.
    """

    fine: Float[Array, ""]
    coarse: Float[Array, ""]
    radius: Float[Array, ""]


class RankCutoff(AbstractWay):
    """A step through the singular values above a cut-off, corrected for the curvature of the network's outputs.

    Of a D with more than 1024 columns only the leading singular values are computed, as many as the fine cut-off
    asks for: twice as many from the next step on where what is left of D exceeds it, half where half would do.

    In a network with fewer parameters than outputs the singular values of D can fall below double precision, evenly
    in their logarithm. Damping then lets most directions creep, and a fixed cut-off either leaves much of the cost
    behind or asks for steps that are far too long. So two steps are tried at each point, which share the singular
    values and cost forward passes only:

    - through the values above a *fine* cut-off, halved until the cost falls. The cut-off follows how much of the last
      such step could be taken.
    - through those above a *coarse* one, whole, and with it through all others a damped lift of bounded length. It is
      taken where the first takes off less than `enough` and it takes off more: along the floor of a flat, curved
      valley, where the first loses itself in halvings. The corrections hold the outputs that the coarse directions
      reach, while the parameters move along the others.

    Corrections through the same singular values make steps possible that are longer by orders of magnitude.

    Paper: (4.5)

    **Arguments:**

    - `least`: with fewer parameters steps stay within the trust region where D has lost rank. That copes with the few
        directions of a curve with as many, and through a cut-off steps would leave some without influence.
    - `deficient`: D has lost rank if its smallest singular value, with its columns scaled, is at most this part of the
      largest; no less than QN eps counts.
    - `initial`: the first cut-offs, relative to the largest singular value.
    - `decrease`: by what the fine one falls after a step of which `good` or more was taken, down to QN eps.
    - `increase`: by what it rises after one of which `bad` or less was taken, up to `maximum`.
    - `enough`: which part of the cost.
    - `coarse_decrease`, `coarse_increase`: by what the coarse one falls after a step that does not raise the cost, and
      rises after one that does.
    - `halvings`, `corrections`: at most how many of each in a step.
    - `directions`: the least and the most singular values to compute where not all are.
    - `slow`: what may be left of D beyond the most directions, relative to the largest singular value. Where more
        is, D is not of low rank, and steps are damped until one of them fails.
    """

    least: int = eqx.field(static=True, default=32)
    deficient: float = 1e-8
    initial: float = 1e-3
    decrease: float = 3.0
    increase: float = 10.0
    good: float = 0.25
    bad: float = 2.0**-6
    maximum: float = 1e-2
    enough: float = 0.03
    coarse_decrease: float = 1.25
    coarse_increase: float = 3.0
    halvings: int = eqx.field(static=True, default=20)
    corrections: int = eqx.field(static=True, default=8)
    directions: tuple[int, int] = eqx.field(static=True, default=(128, 1024))
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
        """Before the first step; a radius of 0 stands for the length of the first whole step."""
        return CutState(jnp.array(self.initial, dtype), jnp.array(self.initial, dtype), jnp.zeros((), dtype))

    def is_deficient(self, triangle: Float[Array, "K K"], rows: int) -> Bool[Array, ""]:
        """Whether to step by the cut-off, from the triangular factor of D, with its columns scaled to the same length.

        Columns that have vanished are of parameters without influence, and no loss of rank among the others.
        """
        norms = column_norms(triangle)[None]
        still = jnp.eye(len(triangle), dtype=triangle.dtype)
        scaled = jnp.where(norms > 0, triangle / jnp.where(norms > 0, norms, 1), still)
        round_off = rows * float(jnp.finfo(triangle.dtype).eps)
        return reciprocal_condition(scaled) <= max(self.deficient, round_off)

    def ladder(self, rows: int, columns: int) -> tuple[int, ...]:
        """How many directions may be taken of a D of this shape: the least, and doubled up to the most."""
        count, most = self.directions
        most = min(most, rows, columns)
        counts = []
        while count < most:
            counts.append(count)
            count *= 2
        return (*counts, most)

    def leading(
        self, matrix: Float[Array, "rows K"], fine: Float[Array, ""], rung: Int[Array, ""], count: Int[Array, ""]
    ) -> tuple[SingularValues, Int[Array, ""]]:
        """The singular values of D of this rung of the ladder, drawn anew for each `count`, and the next rung.

        That is −1 where D is not of low rank.
        """
        ladder = self.ladder(*matrix.shape)
        rung = jnp.clip(rung, 0, len(ladder) - 1)
        svd, rest = leading_singular_values(matrix, ladder, rung, jax.random.fold_in(jax.random.key(0), count))
        rest, fine = rest / svd.unit, fine.astype(rest.dtype)
        half = svd.relative()[jnp.asarray(ladder)[rung] // 2 - 1]
        following = jnp.where(rest > fine, rung + 1, jnp.where(half < 0.1 * fine, jnp.maximum(rung - 1, 0), rung))
        slow = (rung == len(ladder) - 1) & (rest > self.slow)
        return svd, jnp.where(slow, -1, jnp.minimum(following, len(ladder) - 1)).astype(jnp.int32)

    def propose(self, linear: Linearisation, by: SingularValues, state: CutState) -> Proposal:
        """The step through the singular values above the fine cut-off.

        They are those of D itself: in scaled parameters small columns would count as much as large ones.
        """
        fine, coarse = by.kept(state.fine), by.kept(state.coarse)

        def learn(tried: Tried) -> tuple[Tried, LiftInfo, CutState]:
            """What is taken is one of the whole steps, where it is better by far."""
            step, trial, fraction, accepted, _ = tried
            whole, beyond, radius = self._beyond(linear, by, coarse, state.radius.astype(linear.cost.dtype))
            lowers = whole.finite & (whole.cost <= linear.cost)
            good, bad = fraction >= self.good, fraction <= self.bad
            factor = jnp.where(bad, self.increase, jnp.where(good, 1 / self.decrease, 1))
            coarse_factor = jnp.where(lowers, 1 / self.coarse_decrease, self.coarse_increase)
            lowest, dtype = min(by.round_off, self.maximum), state.fine.dtype
            following = CutState(
                jnp.clip(state.fine * factor.astype(dtype), lowest, self.maximum),
                jnp.clip(state.coarse * coarse_factor.astype(dtype), lowest, self.maximum),
                jnp.where(lowers, radius.astype(dtype), state.radius),
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
        return Proposal(self._through(linear, by, fine), self.halvings, still, learn, searched=False)

    def _beyond(
        self, linear: Linearisation, svd: SingularValues, coarse: Bool[Array, " r"], radius: Float[Array, ""]
    ) -> tuple[Trial, Trial, Float[Array, ""]]:
        """The whole step through the coarse directions, the same with a damped one through the rest, the next radius.

        The radius doubles or shrinks by what the rest gained, in units of what was predicted.
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
    ) -> Attempt:
        """A step through the directions that are kept, corrected through the same ones, with `rest` added."""
        step = svd.lift(-linear.residual.reshape(-1), kept)
        whole = linear.jacobian.unravel(step if rest is None else step + rest)
        through = _Through(linear.trainable, svd, kept)
        return Attempt(linear, whole, through.lift, self.corrections, size=through.size)


class _Through(eqx.Module):
    """What the directions that are kept make of rows."""

    trainable: PyTree
    svd: SingularValues
    kept: Bool[Array, " r"]

    def lift(self, rows: Float[Array, "rows R"]) -> PyTree:
        return ravel_pytree(self.trainable)[1](self.svd.lift(rows.reshape(-1), self.kept))

    def size(self, rows: Float[Array, "rows R"]) -> Float[Array, ""]:
        return jnp.linalg.norm(jnp.where(self.kept, self.svd.coefficients(rows.reshape(-1)), 0))
