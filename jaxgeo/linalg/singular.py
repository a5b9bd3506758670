"""Lifts through all or the leading singular values of D: cut off, or damped to a given length."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxgeo.linalg.precision import without_tf32
from jaxgeo.linalg.tangents import freeze, tangent_of


class SingularValues(eqx.Module):
    """D = QUΣVᵀ for K ≤ QN, or D ≈ QUΣVᵀ with r directions: the basis of lifts with a cut-off or damping.

    Results computed from this have derivatives in D and in their other arguments. The rules never divide by the
    difference of two singular values on the same side of a cut-off. Q, U, Σ and V themselves have no derivatives.

    With only the leading r directions, derivatives are those for a D that has no others.

    - `matrix`, `scale`: D is `matrix`, with its columns times `scale` if that is given.
    - `orthogonal`: Q; `left`: U, kept apart from Q because their product would take longer than all uses of it;
      `values`: the diagonal of Σ, falling; `right`: Vᵀ.
    """

    matrix: Float[Array, "rows K"]
    scale: Float[Array, " K"] | None
    orthogonal: Float[Array, "rows r"]
    left: Float[Array, "r r"]
    values: Float[Array, " r"]
    right: Float[Array, "r K"]

    @property
    def is_whole(self) -> bool:
        """Whether these are all singular values."""
        return len(self.values) == self.matrix.shape[1]

    def relative(self) -> Float[Array, " r"]:
        """The singular values in units of the largest, so that no square overflows."""
        return self.values / self.unit

    @property
    def unit(self) -> Float[Array, ""]:
        """The largest singular value, or 1 for D = 0."""
        return jnp.where(self.values[0] > 0, self.values[0], 1)

    @property
    def round_off(self) -> float:
        """The share of the largest singular value below which the values are round-off, as for a numerical rank."""
        return len(self.orthogonal) * float(jnp.finfo(self.values.dtype).eps)

    @without_tf32
    def coefficients(self, velocity: Float[Array, " rows"]) -> Float[Array, " r"]:
        """UᵀQᵀv."""
        return (velocity @ self.orthogonal) @ self.left

    def kept(self, cutoff: Float[Array, ""]) -> Bool[Array, " r"]:
        """Which singular values exceed `cutoff` times the largest."""
        return (self.relative() > cutoff) & (self.values > 0)

    def lift(self, velocity: Float[Array, " rows"], kept: Bool[Array, " r"]) -> Float[Array, " K"]:
        """D⁺v through the directions that are kept.

        Paper: (4.5)
        """
        return _lift(self, velocity, jnp.zeros((), self.values.dtype), kept)

    def damped_lift(self, velocity: Float[Array, " rows"], relative_damping: Float[Array, ""]) -> Float[Array, " K"]:
        """Dᵀ(DDᵀ + λ)⁻¹v for λ = `relative_damping` · σ₁²."""
        return _lift(self, velocity, relative_damping, jnp.ones(self.values.shape, bool))

    def damping_for_length(self, velocity: Float[Array, " rows"], length: Float[Array, ""]) -> Float[Array, ""]:
        """The λ/σ₁² for which the damped lift of v has this length.

        If the lift is never that long, this is the least damping, which keeps out singular values below eps. The length
        falls monotonically with λ, and 1/length is nearly linear in λ, so Newton's method on 1/length from below needs
        few steps of K multiplications each.
        """
        return _damping_for_length(self, velocity, length)

    def mean_square(self) -> Float[Array, ""]:
        """trace(DᵀD)/K in units of σ₁²."""
        return _mean_square(self)


def svd_of_triangle(
    matrix: Float[Array, "rows K"],
    orthogonal: Float[Array, "rows K"],
    triangle: Float[Array, "K K"],
    scale: Float[Array, " K"] | None = None,
) -> SingularValues:
    """The singular values of `matrix` = QR from Q and R, which for many rows is cheaper than a direct decomposition.

    With `scale`, those of `matrix` with its columns times `scale`.
    """
    scaled = freeze(triangle if scale is None else triangle * scale[None])
    left, values, right = jnp.linalg.svd(scaled, full_matrices=False)
    return SingularValues(matrix, scale, freeze(orthogonal), left, values, right)


# From here on singular values are in units of σ₁, and λ in those of its square.
def _solve(
    svd: SingularValues, damping: Float[Array, ""], among: Bool[Array, " r"]
) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    """φ(ρ) = ρ/(ρ² + s) for ρ = σ/σ₁ and s = λ/σ₁², and φ/ρ; 0 for the singular values that are not `among`."""
    relative = svd.relative()
    squared = jnp.where(among, relative**2 + damping, 1)
    return jnp.where(among, relative / squared, 0), jnp.where(among, 1 / squared, 0)


@eqx.filter_custom_jvp
@without_tf32
def _lift(
    svd: SingularValues, velocity: Float[Array, " rows"], damping: Float[Array, ""], among: Bool[Array, " r"]
) -> Float[Array, " K"]:
    """V φ(Σ/σ₁) Uᵀ v / σ₁."""
    gain, _ = _solve(svd, damping, among)
    return (gain * svd.coefficients(velocity) / svd.unit) @ svd.right


@_lift.def_jvp
@without_tf32
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The derivative of a function of the singular values, by its divided differences.

    With E = Uᵀ dD V, split into its symmetric part S and its skew part A, it is, apart from the terms for v and s,

        V (M∘S − P∘A) Uᵀv + V (φ/σ) Vᵀ dDᵀ (1 − UUᵀ) v + (1 − VVᵀ) dDᵀ U (φ/σ) Uᵀv,
        M = (φ(σᵢ) − φ(σⱼ)) / (σᵢ − σⱼ),   P = (φ(σᵢ) + φ(σⱼ)) / (σᵢ + σⱼ).

    The last term is 0 where V is square. Among the chosen directions the quotients are
    (s ∓ σᵢσⱼ)/((σᵢ² + s)(σⱼ² + s)), and 0 among the others.

    Reference: V. Noferini, A formula for the Fréchet derivative of a generalized matrix function, SIAM J. Matrix Anal.
        Appl. 38, 2017
    """
    svd, velocity, damping, among = primals
    t_svd, t_velocity, t_damping, _ = tangents
    value = _lift(svd, velocity, damping, among)
    svd = _differentiable_again(svd)
    gain, ratio = _solve(svd, damping, among)
    slope = -gain * ratio
    found = jnp.zeros_like(value)
    if t_velocity is not None:
        found = found + (gain * svd.coefficients(t_velocity)) @ svd.right
    t_matrix = _tangent_of_matrix(svd, t_svd)
    coefficients = svd.coefficients(velocity)
    if t_matrix is not None:
        inner = _inner(svd, t_matrix)
        relative = svd.relative()
        one, both = among[:, None] ^ among[None], among[:, None] & among[None]
        products, ratios = gain[:, None] * gain[None], ratio[:, None] * ratio[None]
        sums, gaps = relative[:, None] + relative[None], relative[:, None] - relative[None]
        minus = (gain[:, None] - gain[None]) / jnp.where(one, gaps, 1)
        plus = (gain[:, None] + gain[None]) / jnp.where(one, sums, 1)
        minus = jnp.where(both, damping * ratios - products, jnp.where(one, minus, 0))
        plus = jnp.where(both, damping * ratios + products, jnp.where(one, plus, 0))
        turned = (minus * (inner + inner.T) - plus * (inner - inner.T)) / 2
        rest = velocity - svd.orthogonal @ (velocity @ svd.orthogonal)
        found = found + (turned @ coefficients) @ svd.right
        found = found + (ratio * (svd.right @ ((rest @ t_matrix) / svd.unit))) @ svd.right
        if not svd.is_whole:
            turned_out = ((svd.orthogonal @ (svd.left @ (ratio * coefficients))) @ t_matrix) / svd.unit
            found = found + turned_out - (svd.right @ turned_out) @ svd.right
        # λ is in units of σ₁², which changes with D.
        found = found + 2 * damping * inner[0, 0] * (slope * coefficients) @ svd.right
    if t_damping is not None:
        found = found + t_damping * (slope * coefficients) @ svd.right
    return value, found / svd.unit


@eqx.filter_custom_jvp
def _damping_for_length(
    svd: SingularValues, velocity: Float[Array, " rows"], length: Float[Array, ""]
) -> Float[Array, ""]:
    coefficients, relative = svd.coefficients(velocity), svd.relative()
    wanted = length * svd.unit

    def measure(damping: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        lift = relative * coefficients / (relative**2 + damping)
        size = jnp.linalg.norm(lift)
        slope = -jnp.sum(lift**2 / (relative**2 + damping)) / jnp.where(size > 0, size, 1)
        return size, slope

    def newton(_: Int[ArrayLike, ""], damping: Float[Array, ""]) -> Float[Array, ""]:
        size, slope = measure(damping)
        step = (wanted - size) / slope * size / wanted
        return jnp.where((size > wanted) & jnp.isfinite(step), damping + step, damping)

    return jax.lax.fori_loop(0, 40, newton, _least_damping(svd))


def _least_damping(svd: SingularValues) -> Float[Array, ""]:
    dtype = svd.values.dtype
    return jnp.asarray(jnp.finfo(dtype).eps ** 2, dtype)


@_damping_for_length.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """While the lift has the wanted length, it keeps it: x·(dx + ∂x/∂s ds) = |x| d|x|."""
    svd, velocity, length = primals
    t_svd, t_velocity, t_length = tangents
    damping = _damping_for_length(*primals)
    held = damping > _least_damping(svd)

    def lift(parts: tuple) -> Array:
        svd, velocity, damping = parts
        # In these units no square overflows.
        return svd.damped_lift(velocity, damping) * jax.lax.stop_gradient(svd.unit)

    parts, unit = (svd, velocity, damping), svd.unit
    value = lift(parts)
    moved = tangent_of(lift, parts, (t_svd, t_velocity, None))
    along = tangent_of(lambda damping: lift((svd, velocity, damping)), damping, jnp.ones_like(damping))
    grown = -jnp.sum(value * moved)
    if t_length is not None:
        grown = grown + (length * unit) * (t_length * unit)
    slope = jnp.sum(value * along)
    usable = held & (slope < 0)
    return damping, jnp.where(usable, grown / jnp.where(usable, slope, 1), 0)


@eqx.filter_custom_jvp
def _mean_square(svd: SingularValues) -> Float[Array, ""]:
    return jnp.mean(svd.relative() ** 2)


@_mean_square.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (svd,), (t_svd,) = primals, tangents
    value = _mean_square(svd)
    svd = _differentiable_again(svd)
    t_matrix = _tangent_of_matrix(svd, t_svd)
    if t_matrix is None:
        return value, jnp.zeros_like(value)
    inner, relative = _inner(svd, t_matrix), svd.relative()
    return value, 2 * (jnp.mean(relative * jnp.diagonal(inner)) - jnp.mean(relative**2) * inner[0, 0])


@without_tf32
def _inner(svd: SingularValues, tangent: Float[Array, "rows K"]) -> Float[Array, "r r"]:
    """Uᵀ dD V in units of σ₁."""
    return svd.left.T @ ((svd.orthogonal.T @ tangent) @ svd.right.T) / svd.unit


def _tangent_of_matrix(svd: SingularValues, tangent: SingularValues) -> Float[Array, "rows K"] | None:
    """dD, or None if D does not move."""
    parts, moving = (svd.matrix, svd.scale), (tangent.matrix, tangent.scale)
    if not jax.tree.leaves(moving):
        return None
    return tangent_of(lambda parts: parts[0] if parts[1] is None else parts[0] * parts[1][None], parts, moving)


@eqx.filter_custom_jvp
def _decomposed(svd: SingularValues) -> tuple[Array, Array, Array, Array]:
    return svd.orthogonal, svd.left, svd.values, svd.right


@_decomposed.def_jvp
def _(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (svd,), (t_svd,) = primals, tangents

    if not svd.is_whole:
        raise NotImplementedError(
            f"second derivatives through steps of low rank do not exist: {len(svd.values)} singular values were taken "
            f"of a D with {svd.matrix.shape[1]} columns. Use first derivatives only; or use a network with fewer "
            "parameters, or pass `solver=` to step by damping."
        )

    def decomposed(parts: tuple) -> tuple:
        matrix, scale = parts
        orthogonal, triangle = jnp.linalg.qr(matrix)
        scaled = triangle if scale is None else triangle * scale[None]
        return orthogonal, *jnp.linalg.svd(scaled, full_matrices=False)

    return _decomposed(svd), tangent_of(decomposed, (svd.matrix, svd.scale), (t_svd.matrix, t_svd.scale))


def _differentiable_again(svd: SingularValues) -> SingularValues:
    """For second derivatives: Q, U, Σ and V with the derivatives of a decomposition with distinct values."""
    return SingularValues(svd.matrix, svd.scale, *_decomposed(svd))
