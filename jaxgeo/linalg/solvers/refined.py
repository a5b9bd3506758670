"""The lift through a factorisation of G, refined against v − Dθ̇, and a check of G that it gives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.gram.certificate import half_the_digits, product_dtypes
from jaxgeo.linalg.gram.held import HeldFactors
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.refinement import accumulated_eps, refined
from jaxgeo.linalg.solvers.base import relative_norm
from jaxgeo.linalg.solvers.factorisation import Factorisation
from jaxgeo.linalg.solvers.sides import over


class Lifted(NamedTuple):
    """A lift without derivatives.

    - `value`: θ̇.
    - `missed`: v − Dθ̇.
    - `mismatch`: as in `LiftInfo`; None if G needs no check.
    """

    value: PyTree
    missed: Float[Array, "N Q"]
    mismatch: Float[Array, ""] | None


def refined_lift(
    jacobian: Jacobian,
    found: Factorisation,
    relative_damping: Float[Array, ""] | None,
    velocity: Float[Array, "N Q"],
    refinements: int,
    factors: HeldFactors | None = None,
    *,
    check: bool = True,
) -> Lifted:
    """Dᵀψ, refined while v − Dθ̇ − λψ is more than round-off and halves each time; and the mismatch of G to `check`.

    Corrections are added to θ̇, not only to ψ: Dᵀψ alone has an error of cond(D)²·eps, because ψ is so much larger.

    - `factors`: for products with Dᵀ. The defect is always measured by the network's own derivative.
    """
    # What the solution leaves of v on purpose: directions cut off, and damping that was added after a failure.
    left = found.complement(velocity) if relative_damping is None else jnp.zeros_like(velocity)
    added = found.relative_damping.astype(velocity.dtype) - (0 if relative_damping is None else relative_damping)

    def correct(rows: Array) -> tuple[Array, PyTree]:
        psi, solution = found.pulled(rows, jacobian, factors)
        return psi, over(solution, found.sqrt_mean)

    def measure(value: tuple[Array, PyTree]) -> tuple[Array, Array, Array | None]:
        psi, solution = value
        defect = velocity - jacobian.mv(solution)
        defect = defect if relative_damping is None else defect - relative_damping * psi
        size = relative_norm(defect, velocity)
        if not check:
            return defect, size, None
        mismatch = _mismatch(left + added * psi, psi, defect)
        # Round-off of λψ counts too, and exceeds that of Gψ where λ is large.
        return defect, size, mismatch if relative_damping is None else mismatch / (1 + relative_damping)

    nothing = jnp.zeros_like(velocity), jax.tree.map(jnp.zeros_like, jacobian.trainable)
    round_off = accumulated_eps(velocity.size, velocity.dtype)
    end = refined(nothing, correct, measure, refinements, round_off, defect=velocity)
    psi, solution = end.value
    missed = end.defect if relative_damping is None else end.defect + relative_damping * psi
    return Lifted(solution, missed, end.first)


def _mismatch(left: Float[Array, "N Q"], psi: Float[Array, "N Q"], defect: Float[Array, "N Q"]) -> Float[Array, ""]:
    """|Gψ − D(Dᵀψ)| / (√n·t·|ψ|) for the ψ of a lift, G the factorised matrix and t its mean eigenvalue.

    However ill-conditioned G is, ψ has a small backward error: (G + λ)ψ = v up to c·eps·|G|·|ψ|, or up to what a
    cut-off leaves of v. Products with D add errors of this size in their own dtype. |G| is at most n·t, so a correct G
    leaves at most c·eps·√n, and a G with error E leaves |Eψ|/(√n·t·|ψ|). Unlike for the residual of the lift, it does
    not matter whether v can be reached.

    Reference: J. L. Rigal and J. Gaches, On the compatibility of a given solution with the data of a linear system,
    J. ACM 14 (1967), 543–548

    - `left`: what the solution leaves of v on purpose.
    - `defect`: v − D(Dᵀψ) − λψ.
    """
    return relative_norm(left - defect, psi) / psi.size**0.5


def contradicts(mismatch: Float[Array, ""], jacobian: Jacobian, dtype: jnp.dtype) -> Bool[Array, ""]:
    """Whether a mismatch is more than round-off of G, formed in `dtype`, and of products with D.

    The limit is 100·eps·√n, because products may cancel within the network; at least 1e-9, at most half the digits.
    """
    half = half_the_digits(dtype, *product_dtypes(jacobian))
    return mismatch > min(half, max(1e-9, 100 * half**2 * jacobian.out_size() ** 0.5))
