"""The lift once through a factorisation, with derivatives of any order by products with D alone.

No factorisation is differentiated. The rules hold at a fixed rank; H is the inverse, and C the projector onto the
directions that it leaves out.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.gram.held import HeldFactors
from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.base import DAMPED, SOLVED, Damping, LiftInfo, conclude
from jaxgeo.linalg.solvers.factorisation import AbstractInverse, Factorisation
from jaxgeo.linalg.solvers.sides import AbstractSide, Rows, is_raised, over, relative_damping
from jaxgeo.linalg.tangents import attach, filled, tangent_of


class FactorisedSide(eqx.Module):
    """θ̇ for rows v, once through a factorisation that itself has no derivatives.

    The result has the derivatives of the lift in D, λ and v, although no factorisation is differentiated.

    - `relative_damping`: μ, with the derivatives of λ and of the mean eigenvalue that it is relative to.
    - `raised`: whether μ is more than was asked for.
    - `factors`: those that G was assembled from, for products with Dᵀ; only with rows.
    """

    side: AbstractSide
    factorisation: Factorisation
    relative_damping: Float[Array, ""] | None
    raised: Bool[Array, ""]
    factors: HeldFactors | None

    def __init__(
        self,
        kind: type[AbstractSide],
        jacobian: Jacobian,
        factorisation: Factorisation,
        damping: Damping,
        factors: HeldFactors | None = None,
    ):
        self.side, self.factorisation = kind(jacobian, factorisation.sqrt_mean), factorisation
        self.relative_damping = relative_damping(kind, jacobian, damping)
        self.raised, self.factors = is_raised(kind, jacobian, damping), factors
        if self.relative_damping is not None:
            ratio = trace_ratio(jacobian, factorisation.sqrt_mean * kind.size(jacobian) ** 0.5)
            self.relative_damping = self.relative_damping * ratio

    def __call__(self, rows: Float[Array, "N Q"]) -> PyTree:
        value = lift_through(self.side, self.factorisation, self.relative_damping, rows, self.factors)
        return over(value, self.side.sqrt_mean)

    def finish(
        self,
        velocity: Float[Array, "N Q"],
        value: PyTree,
        mismatch: Float[Array, ""] | None = None,
        missed: Float[Array, "N Q"] | None = None,
    ) -> tuple[PyTree, LiftInfo]:
        """The more precise lift `value`, with the derivative of this one, and its report."""
        found, solution = self.factorisation, attach(value, self(velocity))
        outcome = jnp.where(self.raised & (found.outcome == SOLVED), DAMPED, found.outcome)
        return conclude(self.side.jacobian, solution, velocity, outcome, found.rank, mismatch, missed)


@eqx.filter_custom_jvp
def inverse(
    side: AbstractSide, found: AbstractInverse, relative_damping: Float[Array, ""] | None, rhs: PyTree
) -> PyTree:
    """z = (A + μ)⁻¹ rhs, or without μ the pseudo-inverse of A times rhs; `found` is an inverse of A = `side.gram`.

    Differentiable in D, μ and rhs, in both modes and repeatedly:

        dz = H(d rhs − dA z − dμ z) + H H dA C rhs + C dA H z
    """
    return _linear(found.apply, rhs)


@inverse.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    side, found, damping, rhs = primals
    t_side, _, t_damping, t_rhs = tangents

    def tangent_gram(vector: PyTree) -> PyTree:
        return tangent_of(lambda side: side.gram(vector), side, t_side)

    def solve(vector: PyTree) -> PyTree:
        return inverse(side, found, damping, vector)

    z = solve(rhs)
    parts = [filled(t_rhs, rhs)] if _is_perturbed(t_rhs) else []
    others = []
    if _is_perturbed(t_side):
        parts.append(jax.tree.map(jnp.negative, tangent_gram(z)))
        if damping is None:
            parts.append(solve(tangent_gram(_left_out(side, found, rhs))))
            others.append(_left_out(side, found, tangent_gram(solve(z))))
    if t_damping is not None:
        parts.append(_times(-t_damping, z))
    if not parts:
        return z, jax.tree.map(jnp.zeros_like, z)
    return z, _sum(solve(_sum(*parts)), *others)


@eqx.filter_custom_jvp
def lift_through(
    side: AbstractSide,
    found: Factorisation,
    relative_damping: Float[Array, ""] | None,
    rows: Float[Array, "N Q"],
    factors: HeldFactors | None = None,
) -> PyTree:
    """√t D⁺v, damped with μ, once through a factorisation of A/t + μ: x = pull(z), z = (A + μ)⁻¹push(v).

    With L the lift, each L in the derivative below is refined once through v − Bx, so the derivative has an error of
    cond(D)·eps like the lift, not cond(D)²·eps like a factorisation. If a filter keeps directions in part, nothing is
    refined, because that would change the filter. The derivative is

        on the rows:     dx = L(dv − dB x − B dBᵀz + H B dBᵀ C v − dμ z) + dBᵀz
        on the columns:  dx = L(dv − dB x) + H(dBᵀ(v − Bx) − dμ x) + C dBᵀ B H x
    """
    z = _linear(found.apply, side.push(rows))
    return side.pull(z) if factors is None else factors.pull((z / side.sqrt_mean).reshape(-1))


@lift_through.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    side, found, damping, rows, _ = primals
    t_side, _, t_damping, t_rows, _ = tangents
    refined = jnp.ones((), bool) if damping is not None else found.is_sharp()

    def invert(vector: PyTree) -> PyTree:
        return inverse(side, found, damping, vector)

    def tangent(function: Callable[[AbstractSide], PyTree]) -> PyTree:
        return tangent_of(function, side, t_side)

    def solve(rows: Array) -> tuple[PyTree, PyTree]:
        """z = H push(rows), and pull(z)."""
        z = invert(side.push(rows))
        x = side.pull(z)
        defect = side.push(rows - side.mv(x))
        defect = defect if damping is None else _sum(defect, _times(-damping, z))
        more = invert(_only_if(refined, defect))
        return _sum(z, more), _sum(x, side.pull(more))

    z, x = solve(rows)
    total = jnp.zeros_like(rows) if t_rows is None else t_rows
    # `inside` is added to the argument of H, `outside` to the result.
    inside = [] if t_damping is None else [_times(-t_damping, z)]
    outside = []
    if _is_perturbed(t_side):
        total = total - tangent(lambda side: side.mv(x))
        if isinstance(side, Rows):
            outside.append(tangent(lambda side: side.pull(z)))
            total = total - side.mv(outside[0])
            if damping is None:
                lost = _left_out(side, found, rows)
                total = total + invert(side.mv(tangent(lambda side: side.pull(lost))))
        else:
            missed = rows - side.mv(x)
            inside.append(tangent(lambda side: side.push(missed)))
            if damping is None:
                twice = side.mv(invert(x))
                outside.append(_left_out(side, found, tangent(lambda side: side.push(twice))))
    if isinstance(side, Rows):
        total = _sum(total, *inside)
    elif inside:
        # Not refined: the argument is as accurate as products with D, and refinement would take more of them.
        outside.append(invert(_sum(*inside)))
    return lift_through(*primals), _sum(solve(total)[1], *outside)


def _left_out(side: AbstractSide, found: AbstractInverse, vector: PyTree) -> PyTree:
    """The part of a vector that the pseudo-inverse leaves out, with its derivative at a fixed rank."""
    carrier = jax.tree.map(
        lambda all, kept: jnp.where(found.is_filtered(), all - kept, jnp.zeros_like(all)),
        vector,
        side.gram(inverse(side, found, None, vector)),
    )
    return attach(_linear(found.complement, vector), carrier)


def _is_perturbed(tangent: PyTree) -> bool:
    """Whether anything moves."""
    return len(jax.tree.leaves(tangent)) > 0


def _linear(function: Callable[[PyTree], PyTree], rhs: PyTree) -> PyTree:
    """`function(rhs)`, declared to be linear and symmetric, so that it has derivatives in rhs."""
    return jax.lax.custom_linear_solve(lambda y: y, rhs, lambda _, y: function(y), symmetric=True)


def _only_if(condition: Bool[Array, ""], tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(condition, leaf, jnp.zeros_like(leaf)), tree)


def _times(scale: Float[Array, ""], tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, tree)


def _sum(*trees: PyTree) -> PyTree:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *trees)


@eqx.filter_custom_jvp
def trace_ratio(jacobian: Jacobian, size: Float[Array, ""]) -> Float[Array, ""]:
    """trace(DDᵀ)/size², where `size`² equals this trace: the value is 1, with the derivative of the trace."""
    return jnp.ones_like(size)


@trace_ratio.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    jacobian, size = primals
    t_jacobian, _ = tangents
    one = jnp.ones_like(size)
    if not _is_perturbed(t_jacobian):
        return one, jnp.zeros_like(one)
    # Only derivatives through the tangent enter higher derivatives of the ratio. This is exact, because `size` is
    # constant.
    size = jax.lax.stop_gradient(size)
    return one, tangent_of(lambda jacobian: jnp.sum((jacobian.as_matrix() / size) ** 2), jacobian, t_jacobian)
