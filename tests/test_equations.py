"""The ready differential equations, against their solutions; the derivatives, against dense ones."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from regression import scanned

import jaxgeo as jg
from jaxgeo.equations import divergence, gradient, laplacian

# Parameters as published, and numbers of points, odd on random boundaries so that shares must add up.
EQUATIONS = {
    "poisson_2d": (257, (25, 16)),
    "heat_1d": (257, (25, 15)),
    "burgers_1d": (921, (25, 0)),
    "helmholtz_2d": (2_971, (25, 0)),
    "kovasznay_2d": (963, (25, 9)),
    "poisson_5d": (10_065, (8, 7)),
    "harmonic_10d": (118_145, (8, 7)),
    "poisson_100d": (1_325_057, (3, 4)),
    "heat_4d": (116_865, (8, 7)),
    "log_fokker_planck_9d": (118_145, (8, 7)),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_solution_has_no_residual_and_the_network_the_published_size(name):
    num_params, counts = EQUATIONS[name]
    equation = getattr(jg.equations, name)()
    inside, edge = equation.points(jr.key(0), counts)
    assert (inside.shape, edge.shape) == ((counts[0], equation.dim), (counts[1], equation.dim))
    residuals = jax.vmap(lambda x: equation.residual(equation.solution, x))(inside)
    scale = jnp.max(jnp.abs(jax.vmap(lambda x: laplacian(equation.solution)(x))(inside))) + 1
    np.testing.assert_allclose(residuals / scale, 0, atol=1e-12)
    params = jax.eval_shape(equation.init, jr.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_params


@pytest.mark.parametrize("name", EQUATIONS)
def test_boundary_points_lie_on_the_boundary(name):
    equation = getattr(jg.equations, name)()
    _, edge = equation.points(jr.key(0), EQUATIONS[name][1])
    if name == "log_fokker_planck_9d":
        assert not edge[:, 0].any()
        return
    if name == "kovasznay_2d":
        ends = np.asarray([equation.box.low, equation.box.high])
        assert (np.asarray(edge)[:, None] == ends[None]).any(axis=(1, 2)).all()
        return
    first = 1 if name.startswith("heat") else 0
    on_a_face = ((edge == 0) | (edge == 1))[:, first:].any(axis=1)
    assert bool((on_a_face | (first * edge[:, 0] == 0) & (first == 1)).all())


@pytest.mark.slow
def test_equation_is_trained_on_its_points_and_judged_elsewhere():
    equation = jg.equations.poisson_2d((16,))
    start = equation.init(jr.key(0))
    problem = equation.problem(equation.points(jr.key(0), (100, 40)))
    params, _ = scanned(jg.optim.adapted_levenberg_marquardt(), problem, start, 80)
    elsewhere = jr.uniform(jr.key(1), (50, 2))
    assert equation.error(params, elsewhere) < 0.1 * equation.error(start, elsewhere)
    values = jax.vmap(lambda x: params(x)[0])(elsewhere)
    exact = np.sin(np.pi * elsewhere[:, 0]) * np.sin(np.pi * elsewhere[:, 1])
    expected = np.linalg.norm(values - exact) / np.linalg.norm(exact)
    np.testing.assert_allclose(equation.error(params, elsewhere), expected, rtol=1e-12)


def test_grid_refuses_counts_that_make_none():
    with pytest.raises(ValueError, match="got 10 and 120"):
        jg.equations.poisson_2d().points(jr.key(0), (10, 120))


def test_derivatives_are_those_of_the_hessian():
    def u(x):
        return jnp.sin(x[0]) * x[1] ** 3 + jnp.exp(x[2] * x[0])

    x = jr.normal(jr.key(0), (3,))
    np.testing.assert_allclose(gradient(u)(x), jax.grad(u)(x), rtol=1e-13)
    np.testing.assert_allclose(laplacian(u)(x), jnp.trace(jax.hessian(u)(x)), rtol=1e-13)
    np.testing.assert_allclose(divergence(gradient(u))(x), laplacian(u)(x), rtol=1e-13)


@pytest.mark.parametrize("viscosity", [0.003, 0.01 / np.pi, 0.1])
def test_burgers_solution_is_a_quotient_of_integrals(viscosity):
    """By sums over a fine grid, which for such integrands are exact to round-off."""
    equation = jg.equations.burgers_1d(viscosity=viscosity)
    points = equation.elsewhere(jr.key(0), 40)
    shifts = np.linspace(-6, 6, 40_001)

    def exact(t, x):
        exponents = -np.cos(np.pi * (x - shifts)) / (2 * np.pi * viscosity) - shifts**2 / (4 * viscosity * t)
        weights = np.exp(exponents - exponents.max())
        return -np.sum(weights * np.sin(np.pi * (x - shifts))) / np.sum(weights)

    expected = [exact(t, x) for t, x in np.asarray(points)]
    np.testing.assert_allclose(jax.vmap(equation.solution)(points), expected, atol=1e-13)


def test_a_network_meets_the_conditions_of_burgers_equation_exactly():
    equation = jg.equations.burgers_1d((5,))
    u = equation.field(equation.init(jr.key(0)))
    np.testing.assert_allclose(u(jnp.array([0.0, 0.3])), -np.sin(0.3 * np.pi), rtol=1e-15)
    np.testing.assert_allclose([u(jnp.array([0.7, side])) for side in (-1.0, 1.0)], 0, atol=1e-15)


def test_a_periodic_network_is_periodic_and_points_lie_in_the_domain():
    equation = jg.equations.helmholtz_2d((5,))
    u = equation.field(equation.init(jr.key(0)))
    np.testing.assert_allclose(u(jnp.array([-1.0, 0.2])), u(jnp.array([1.0, 0.2])), rtol=1e-13)
    points = equation.elsewhere(jr.key(0), 1000)
    assert points.min() < -0.98
    assert 0.98 < points.max() <= 1
    with pytest.raises(ValueError, match="no boundary to put points on; got 4"):
        equation.points(jr.key(0), (25, 4))
    with pytest.raises(ValueError, match="`viscosity` must be a number, at least 0.003; got 0.001"):
        jg.equations.burgers_1d(viscosity=0.001)


def test_points_are_drawn_where_the_residual_is_large():
    """In proportion to |r|/mean |r| + 1, of many candidates; the residual here is 9 in a tenth of the interval."""
    equation = jg.equations.Equation(
        residual=lambda u, x: jnp.where(x[0] < 0.1, 9.0, 1 / 9) * u(x),
        solution=lambda x: jnp.zeros(()),
        draw=lambda key, inside, edge: (jr.uniform(key, (inside, 1)), jnp.zeros((edge, 1))),
        dim=1,
        widths=(2,),
        counts=(4000, 0),
    )

    def one(x):
        return jnp.ones(1)

    points, _ = jax.jit(lambda key: equation.points_by_residual(one, key))(jr.key(0))
    assert points.shape == (4000, 1)
    assert len(np.unique(points)) == 4000
    # Densities 10 and 1.11 on 0.1 and 0.9 of the interval; less than without limit, as candidates run out.
    share = float(jnp.mean(points < 0.1))
    assert 0.35 < share < 0.5
    with pytest.raises(ValueError, match="`candidates` must be an integer of at least 1; got 0"):
        equation.points_by_residual(one, jr.key(0), candidates=0)
