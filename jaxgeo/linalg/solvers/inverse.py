"""Derivatives through a factored solve: by products with D, to any order, without differentiating a factorisation."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from jaxgeo.linalg.jacobian import Jacobian
from jaxgeo.linalg.solvers.factorisation import Factorisation
from jaxgeo.linalg.tangents import attach, filled, tangent_of


class AbstractInverse(eqx.Module):
    """(A + μ)⁻¹ or a pseudo-inverse of A by iterations, in place of a `Factorisation`. Takes part in no derivative."""

    @property
    @abc.abstractmethod
    def spectral(self) -> Bool[Array, ""]:
        """Whether directions may be left out."""

    @abc.abstractmethod
    def apply(self, rhs: PyTree) -> PyTree:
        """The inverse times `rhs`."""

    @abc.abstractmethod
    def complement(self, rhs: PyTree) -> PyTree:
        """The part of `rhs` in the directions that the inverse leaves out."""


class RowOperator(eqx.Module):
    """A = DDᵀ/t on output velocities (N, Q)."""

    jacobian: Jacobian
    sqrt_mean: Float[Array, ""]

    def mv(self, rows: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
        return self.jacobian.mv(self.jacobian.T.mv(rows / self.sqrt_mean)) / self.sqrt_mean


class ColumnOperator(eqx.Module):
    """A = DᵀD/t on parameter velocities."""

    jacobian: Jacobian
    sqrt_mean: Float[Array, ""]

    def mv(self, vector: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: leaf / self.sqrt_mean, self.jacobian.T.mv(self.jacobian.mv(vector) / self.sqrt_mean)
        )


Operator = RowOperator | ColumnOperator


@eqx.filter_custom_jvp
def inverse(
    operator: Operator, factor: Factorisation | AbstractInverse, shift: Float[Array, ""] | None, rhs: PyTree
) -> PyTree:
    """x = (A + μ)⁻¹ rhs, or without μ the pseudo-inverse of A times rhs, by a factor of A.

    Differentiable in the operator, μ and rhs, in both modes and repeatedly. Without μ the rule is that of the
    pseudo-inverse at a fixed rank, with H the factored inverse and C the projector on the directions left out:

        dx = H(d rhs − dA x) + H H dA C rhs + C dA H x
    """
    return linear(factor.apply, rhs)


@inverse.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    operator, factor, shift, rhs = primals
    t_operator, _, t_shift, t_rhs = tangents

    def tangent_mv(vector: PyTree) -> PyTree:
        return tangent_of(lambda operator: operator.mv(vector), operator, t_operator)

    def solve(vector: PyTree) -> PyTree:
        return inverse(operator, factor, shift, vector)

    x = solve(rhs)
    parts = [filled(t_rhs, rhs)] if is_perturbed(t_rhs) else []
    others = []
    if is_perturbed(t_operator):
        parts.append(jax.tree.map(jnp.negative, tangent_mv(x)))
        if shift is None:
            parts.append(solve(tangent_mv(left_out(operator, factor, rhs))))
            others.append(left_out(operator, factor, tangent_mv(solve(x))))
    if t_shift is not None:
        parts.append(jax.tree.map(lambda leaf: -t_shift * leaf, x))
    if not parts:
        return x, jax.tree.map(jnp.zeros_like, x)
    total = jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *parts)
    return x, jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), solve(total), *others)


def left_out(operator: Operator, factor: Factorisation | AbstractInverse, vector: PyTree) -> PyTree:
    """The part of a vector that the pseudo-inverse leaves out, with its derivative at a fixed rank."""
    carrier = jax.tree.map(
        lambda all, kept: jnp.where(factor.spectral, all - kept, jnp.zeros_like(all)),
        vector,
        operator.mv(inverse(operator, factor, None, vector)),
    )
    return attach(linear(factor.complement, vector), carrier)


def is_perturbed(tangent: PyTree) -> bool:
    """Whether anything moves."""
    return len(jax.tree.leaves(tangent)) > 0


def linear(function: Callable[[PyTree], PyTree], rhs: PyTree) -> PyTree:
    """`function(rhs)`, known to be linear and symmetric, so that it has derivatives in rhs."""
    return jax.lax.custom_linear_solve(lambda y: y, rhs, lambda _, y: function(y), symmetric=True)


@eqx.filter_custom_jvp
def trace_ratio(jacobian: Jacobian, size: Float[Array, ""]) -> Float[Array, ""]:
    """trace(DDᵀ)/size², where `size`² is that very trace: 1, with the derivative of the trace."""
    return jnp.ones_like(size)


@trace_ratio.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    jacobian, size = primals
    t_jacobian, _ = tangents
    one = jnp.ones_like(size)
    if not is_perturbed(t_jacobian):
        return one, jnp.zeros_like(one)
    # Of the second and higher derivatives of the ratio only those through the tangent are kept, which is exact, as
    # the size does not move.
    size = jax.lax.stop_gradient(size)
    return one, tangent_of(lambda jacobian: jnp.sum((jacobian.as_matrix() / size) ** 2), jacobian, t_jacobian)
