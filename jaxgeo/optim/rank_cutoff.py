"""Steps where D has lost numerical rank: which singular values count, from step to step."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgeo._checks import check_count, check_positive
from jaxgeo.linalg.singular import SingularValues
from jaxgeo.optim.linearisation import Linearisation, Trial, parts_of, shorten


class RankCutoff(eqx.Module):
    """A full step through the singular values above a cut-off, corrected for curvature, halved until the cost falls.

    In a network with fewer parameters than outputs the singular values of D can fall below double precision, evenly
    in their logarithm. Damping then lets most directions creep, and a fixed cut-off either leaves much of the cost
    behind or asks for steps that are far too long. Here the cut-off follows how much of the last step could be taken.

    Corrections through the same singular values make steps possible that are longer by orders of magnitude.

    Paper: (4.5)

    **Arguments:**

    - `deficient`: D has lost rank if its smallest singular value, with its columns scaled, is at most this part of the
      largest; no less than QN eps counts.
    - `initial`: the first cut-off, relative to the largest singular value.
    - `decrease`: by what it falls after a step of which `good` or more was taken, down to QN eps.
    - `increase`: by what it rises after one of which `bad` or less was taken, up to `maximum`.
    - `halvings`, `corrections`: at most how many of each in a step.
    """

    deficient: float = 1e-8
    initial: float = 1e-3
    decrease: float = 3.0
    increase: float = 10.0
    good: float = 0.25
    bad: float = 2.0**-6
    maximum: float = 1e-2
    halvings: int = eqx.field(static=True, default=20)
    corrections: int = eqx.field(static=True, default=8)

    def __check_init__(self):
        for name in ("deficient", "initial", "decrease", "increase", "good", "bad", "maximum"):
            check_positive(name, vars(self)[name])
        check_count("halvings", self.halvings, least=0)
        check_count("corrections", self.corrections, least=0)

    def is_deficient(self, scaled: SingularValues) -> Bool[Array, ""]:
        """Whether to step by the cut-off, from the singular values of D in scaled parameters."""
        return scaled.relative()[-1] <= max(self.deficient, scaled.round_off)

    def step(
        self,
        linear: Linearisation,
        svd: SingularValues,
        cutoff: Float[Array, ""],
        good: Callable[[Trial], Bool[Array, ""]],
    ) -> tuple[Trial, Float[Array, ""], Bool[Array, ""], Float[Array, ""], Int[Array, ""]]:
        """**Returns:** trial, fraction and acceptance as `shorten`, the next cut-off, and how many directions counted.

        **Arguments:**

        - `svd`: of D itself: in scaled parameters small columns would count as much as large ones.
        - `good`: whether a trial is to be taken.
        """
        jacobian = linear.jacobian
        kept = svd.kept(cutoff)

        def lift(rows: Float[Array, "rows R"]) -> PyTree:
            return jacobian.unravel(svd.lift(rows.reshape(-1), kept))

        attempt = parts_of(linear, lift(-linear.residual), lift, self.corrections)
        trial, fraction, accepted = shorten(linear, attempt, good, self.halvings)
        factor = jnp.where(fraction <= self.bad, self.increase, jnp.where(fraction >= self.good, 1 / self.decrease, 1))
        lowest = min(svd.round_off, self.maximum)
        following = jnp.clip(cutoff * factor.astype(cutoff.dtype), lowest, self.maximum)
        return trial, fraction, accepted, following, jnp.sum(kept, dtype=jnp.int32)
