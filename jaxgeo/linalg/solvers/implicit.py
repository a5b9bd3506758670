"""The derivative of a lift: by products with D and a factor, without differentiating a factorisation.

Through v − Dθ̇ each solve is refined once, so that the derivative has an error of cond(D)·eps, like the lift, and not of
cond(D)²·eps, like a factor of a Gram matrix. Not where a filter keeps directions in part: it would be another filter.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.factorisation import Factorisation
from jaxgeo.linalg.solvers.inverse import ColumnOperator, RowOperator, inverse, is_perturbed, left_out, linear
from jaxgeo.linalg.tangents import tangent_of


class _Side(eqx.Module):
    """Products with B = D/√t."""

    jacobian: Jacobian
    sqrt_mean: Float[Array, ""]

    def mv(self, vector: PyTree) -> Float[Array, "N Q"]:
        return self.jacobian.mv(vector) / self.sqrt_mean

    def vm(self, rows: Float[Array, "N Q"]) -> PyTree:
        return self.jacobian.T.mv(rows / self.sqrt_mean)

    def tangent_mv(self, tangent: Jacobian, vector: PyTree) -> Float[Array, "N Q"]:
        return tangent_of(lambda jacobian: _Side(jacobian, self.sqrt_mean).mv(vector), self.jacobian, tangent)

    def tangent_vm(self, tangent: Jacobian, rows: Float[Array, "N Q"]) -> PyTree:
        return tangent_of(lambda jacobian: _Side(jacobian, self.sqrt_mean).vm(rows), self.jacobian, tangent)


@eqx.filter_custom_jvp
def row_lift(
    jacobian: Jacobian, factor: Factorisation, shift: Float[Array, ""] | None, rows: Float[Array, "N Q"]
) -> PyTree:
    """√t D⁺v, damped with μ = `shift`, once through a factor of DDᵀ/t + μ: Bᵀψ with (BBᵀ + μ)ψ = v.

    √t is `factor.sqrt_mean`.

    Without μ the derivative is that at a fixed rank, with L the lift, H the inverse and C the projector on the
    directions left out:

        dx = L(dv − dB x − B dBᵀψ − dμ ψ) + dBᵀψ + L H B dBᵀ C v
    """
    return _Side(jacobian, factor.sqrt_mean).vm(linear(factor.apply, rows))


@row_lift.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    jacobian, factor, shift, rows = primals
    t_jacobian, _, t_shift, t_rows = tangents
    side, operator = _Side(jacobian, factor.sqrt_mean), RowOperator(jacobian, factor.sqrt_mean)
    refined = jnp.ones((), bool) if shift is not None else factor.is_sharp()

    def solve(rows: Array) -> tuple[Array, PyTree]:
        psi = inverse(operator, factor, shift, rows)
        value = side.vm(psi)
        defect = rows - side.mv(value)
        defect = defect if shift is None else defect - shift * psi
        more = inverse(operator, factor, shift, _only_if(refined, defect))
        return psi + more, _plus(value, side.vm(more))

    psi, value = solve(rows)
    total = jnp.zeros_like(rows) if t_rows is None else t_rows
    beside = jax.tree.map(jnp.zeros_like, value)
    if is_perturbed(t_jacobian):
        beside = side.tangent_vm(t_jacobian, psi)
        total = total - side.tangent_mv(t_jacobian, value) - side.mv(beside)
        if shift is None:
            outside = side.tangent_vm(t_jacobian, left_out(operator, factor, rows))
            total = total + inverse(operator, factor, shift, side.mv(outside))
    if t_shift is not None:
        total = total - t_shift * psi
    return row_lift(*primals), _plus(beside, solve(total)[1])


@eqx.filter_custom_jvp
def column_lift(
    jacobian: Jacobian, factor: Factorisation, shift: Float[Array, ""] | None, rows: Float[Array, "N Q"]
) -> PyTree:
    """The same once through a factor of DᵀD/t + μ: (BᵀB + μ)⁻¹Bᵀv.

    With H the inverse, the derivative is

        dx = L(dv − dB x) + H(dBᵀ(v − B x) − dμ x) + C dBᵀ B H x
    """
    return linear(factor.apply, _Side(jacobian, factor.sqrt_mean).vm(rows))


@column_lift.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    jacobian, factor, shift, rows = primals
    t_jacobian, _, t_shift, t_rows = tangents
    side, operator = _Side(jacobian, factor.sqrt_mean), ColumnOperator(jacobian, factor.sqrt_mean)
    refined = jnp.ones((), bool) if shift is not None else factor.is_sharp()

    def invert(vector: PyTree) -> PyTree:
        return inverse(operator, factor, shift, vector)

    def solve(rows: Array) -> PyTree:
        value = invert(side.vm(rows))
        defect = side.vm(rows - side.mv(value))
        defect = defect if shift is None else _minus(defect, _times(shift, value))
        return _plus(value, invert(_only_if(refined, defect)))

    value = solve(rows)
    total = jnp.zeros_like(rows) if t_rows is None else t_rows
    direct = beside = jax.tree.map(jnp.zeros_like, value)
    if is_perturbed(t_jacobian):
        total = total - side.tangent_mv(t_jacobian, value)
        direct = side.tangent_vm(t_jacobian, rows - side.mv(value))
        if shift is None:
            beside = left_out(operator, factor, side.tangent_vm(t_jacobian, side.mv(invert(value))))
    if t_shift is not None:
        direct = _minus(direct, _times(t_shift, value))
    return column_lift(*primals), _plus(_plus(solve(total), invert(direct)), beside)


def _only_if(condition: Bool[Array, ""], tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(condition, leaf, jnp.zeros_like(leaf)), tree)


def _plus(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, left, right)


def _minus(left: PyTree, right: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, left, right)


def _times(scale: Float[Array, ""], tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: scale.astype(leaf.dtype) * leaf, tree)
