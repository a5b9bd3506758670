"""The two sides on which a lift can be solved: QN rows or K columns. Round-off, refinement, derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.gram.certificate import half_the_digits
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.refinement import accumulated_eps, refined
from jaxgeo.linalg.solvers.base import Damping, LiftInfo, conclude, relative_norm
from jaxgeo.linalg.solvers.factorisation import Factorisation
from jaxgeo.linalg.solvers.implicit import column_lift, row_lift
from jaxgeo.linalg.solvers.inverse import trace_ratio
from jaxgeo.linalg.tangents import attach


def relative_shift(jacobian: Jacobian, damping: Damping, rows: bool) -> Float[Array, ""] | None:
    """μ = λ/t for the mean eigenvalue t on that side; λ = damping · trace(DDᵀ)/QN."""
    if damping is None:
        return None
    size, count = jacobian.out_size(), jacobian.in_size()
    return jnp.asarray(damping, jacobian.outputs.dtype) * (1.0 if rows else count / size)


def gram_dtype(jacobian: Jacobian, damping: Damping, choice: jnp.dtype | None) -> jnp.dtype:
    """In which dtype to form and factor: float64, or with damping the parameters' own."""
    if choice is not None:
        return jnp.dtype(choice)
    return jnp.dtype(jnp.float64) if damping is None else jnp.dtype(jacobian.outputs.dtype)


def refined_lift(
    jacobian: Jacobian,
    factor: Factorisation,
    shift: Float[Array, ""] | None,
    velocity: Float[Array, "N Q"],
    refinements: int,
) -> tuple[PyTree, Float[Array, ""]]:
    """Dᵀψ, refined against v − Dθ̇ − λψ until that is round-off, and as long as it halves; and the mismatch of G.

    Corrections are added to θ̇, not to ψ: Dᵀψ by itself has an error of cond(D)²·eps, as ψ is so much larger.
    """

    def correct(rows: Array) -> tuple[Array, PyTree]:
        psi = factor.apply(rows)
        return psi, jax.tree.map(lambda leaf: leaf / factor.sqrt_mean, jacobian.T.mv(psi / factor.sqrt_mean))

    def measure(value: tuple[Array, PyTree]) -> tuple[Array, Array]:
        psi, solution = value
        defect = velocity - jacobian.mv(solution)
        defect = defect if shift is None else defect - shift * psi
        return defect, relative_norm(defect, velocity)

    first = correct(velocity)
    mismatch = _mismatch(factor, shift, velocity, first[0], measure(first)[0])
    round_off = accumulated_eps(velocity.size, velocity.dtype)
    (_, solution), _ = refined(first, correct, measure, refinements, round_off)
    return solution, mismatch


def _mismatch(
    factor: Factorisation,
    shift: Float[Array, ""] | None,
    velocity: Float[Array, "N Q"],
    psi: Float[Array, "N Q"],
    defect: Float[Array, "N Q"],
) -> Float[Array, ""]:
    """|Gψ − D(Dᵀψ)| / (√n·t·|ψ|) for the ψ of a lift, G the factored matrix and t its mean eigenvalue.

    However ill-conditioned G is, ψ has a small backward error: (G + λ)ψ = v up to c·eps·|G|·|ψ|, or what is left of
    v after a cut-off. Products with D add errors of that size in their own dtype. Since |G| is n·t at most, a right
    G leaves no more than c·eps·√n, and one with an error E leaves |Eψ|/(√n·t·|ψ|). Whether v can be reached does
    not matter here, which it does to the residual of the lift.

    Reference: J. L. Rigal and J. Gaches, On the compatibility of a given solution with the data of a linear system,
    J. ACM 14 (1967), 543–548

    - `defect`: v − D(Dᵀψ) − λψ.
    """
    # What the solution leaves of v on purpose: directions cut off, and damping that was added after a failure.
    left = factor.complement(velocity) if shift is None else jnp.zeros_like(velocity)
    added = factor.shift.astype(psi.dtype) - (0 if shift is None else shift)
    return relative_norm(left + added * psi - defect, psi) / psi.size**0.5


def contradicts(mismatch: Float[Array, ""], size: int, dtype: jnp.dtype) -> Bool[Array, ""]:
    """Whether a mismatch is more than G of that size, formed in `dtype`, and products with D can leave.

    A hundred times eps·√n, since products may cancel within the network; at least 1e-9, at most half of the digits.
    """
    half = half_the_digits(dtype, mismatch.dtype)
    return mismatch > min(half, max(1e-9, 100 * half**2 * size**0.5))


class RowLift(eqx.Module):
    """Dᵀψ, (DDᵀ + λ)ψ = v, once through a factor of G that has no derivatives: with the value that this gives.

    The derivative is that of the lift, in D, λ and v; no factorisation is differentiated.
    """

    jacobian: Jacobian
    factor: Factorisation
    shift: Float[Array, ""] | None

    def __init__(self, jacobian: Jacobian, factor: Factorisation, damping: Damping):
        shift = relative_shift(jacobian, damping, rows=True)
        if shift is not None:
            shift = shift * trace_ratio(jacobian, factor.sqrt_mean * jacobian.out_size() ** 0.5)
        self.jacobian, self.factor, self.shift = jacobian, factor, shift

    def __call__(self, rows: Float[Array, "N Q"]) -> PyTree:
        value = row_lift(self.jacobian, self.factor, self.shift, rows)
        return jax.tree.map(lambda leaf: leaf / self.factor.sqrt_mean, value)


def finish_rows(
    jacobian: Jacobian,
    velocity: Float[Array, "N Q"],
    damping: Damping,
    factor: Factorisation,
    value: PyTree,
    mismatch: Float[Array, ""] | None = None,
) -> tuple[PyTree, LiftInfo]:
    """The lift `value`, with its derivative by a factor of G and its report."""
    carrier = RowLift(jacobian, factor, damping)(velocity)
    return conclude(jacobian, attach(value, carrier), velocity, factor.outcome, factor.rank, mismatch)


def finish_columns(
    jacobian: Jacobian, velocity: Float[Array, "N Q"], damping: Damping, factor: Factorisation, value: PyTree
) -> tuple[PyTree, LiftInfo]:
    """The lift `value`, with its derivative by a factor of DᵀD and its report."""
    shift = relative_shift(jacobian, damping, rows=False)
    if shift is not None:
        shift = shift * trace_ratio(jacobian, factor.sqrt_mean * jacobian.in_size() ** 0.5)
    carrier = jax.tree.map(lambda leaf: leaf / factor.sqrt_mean, column_lift(jacobian, factor, shift, velocity))
    return conclude(jacobian, attach(value, carrier), velocity, factor.outcome, factor.rank)
