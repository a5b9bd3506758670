"""The ready-made differential equations against their solutions; the derivatives against dense ones."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import jaxgeo as jg
from cases.fitting import scanned
from jaxgeo.equations import Box, Condition, Fourier, Periodic, divergence, gradient, laplacian, partials

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


SLOW = ("poisson_5d", "poisson_100d", "heat_4d")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EQUATIONS])
def test_solution_has_no_residual_and_the_network_the_published_size(name):
    num_params, counts = EQUATIONS[name]
    equation = getattr(jg.equations, name)()
    inside, edge = equation.points(jr.key(0), counts)
    assert (inside.shape, edge.shape) == ((counts[0], equation.dim), (counts[1], equation.dim))

    @jax.jit
    @jax.vmap
    def both(x):
        return equation.residual(equation.solution, x), laplacian(equation.solution)(x)

    residuals, laplacians = both(inside)
    np.testing.assert_allclose(residuals / (np.abs(laplacians).max() + 1), 0, atol=1e-12)
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

    @jax.jit
    def all_of(x):
        found = gradient(u)(x), laplacian(u)(x), divergence(gradient(u))(x)
        return found, (jax.grad(u)(x), *[jnp.trace(jax.hessian(u)(x))] * 2)

    for found, expected in zip(*all_of(jr.normal(jr.key(0), (3,))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13)


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
    np.testing.assert_allclose(jax.jit(jax.vmap(equation.solution))(points), expected, atol=1e-13)


def test_a_network_meets_the_conditions_of_burgers_equation_exactly():
    equation = jg.equations.burgers_1d((5,))
    u = jax.jit(equation.field(equation.init(jr.key(0))))
    np.testing.assert_allclose(u(jnp.array([0.0, 0.3])), -np.sin(0.3 * np.pi), rtol=1e-15)
    np.testing.assert_allclose([u(jnp.array([0.7, side])) for side in (-1.0, 1.0)], 0, atol=1e-15)


def test_a_larger_network_for_burgers_equation_gets_more_points():
    assert jg.equations.burgers_1d().counts == (3000, 0)
    assert jg.equations.burgers_1d((25, 25, 25, 25)).counts == (3 * 2051, 0)
    assert jg.equations.burgers_1d((20, 20, 20, 20), periodic=True).counts == (3 * 1361, 0)
    with pytest.raises(ValueError, match="`widths` must be positive integers"):
        jg.equations.burgers_1d((20, 0))


def test_a_periodic_network_meets_the_initial_condition_of_burgers_equation():
    equation = jg.equations.burgers_1d((5,), 0.01, periodic=True)
    u = jax.jit(equation.field(equation.init(jr.key(0))))
    np.testing.assert_allclose(u(jnp.array([0.0, 0.3])), -np.sin(0.3 * np.pi), rtol=1e-15)
    left, right = (u(jnp.array([0.7, side])) for side in (-1.0, 1.0))
    np.testing.assert_allclose(left, right, rtol=1e-13)
    assert abs(left) > 1e-3


def test_a_periodic_network_is_periodic_and_points_lie_in_the_domain():
    equation = jg.equations.helmholtz_2d((5,))
    u = jax.jit(equation.field(equation.init(jr.key(0))))
    np.testing.assert_allclose(u(jnp.array([-1.0, 0.2])), u(jnp.array([1.0, 0.2])), rtol=1e-13)
    points = equation.elsewhere(jr.key(0), 1000)
    assert points.min() < -0.98
    assert 0.98 < points.max() <= 1
    with pytest.raises(ValueError, match="takes no points on the boundary; pass 0 instead of 4"):
        equation.points(jr.key(0), (25, 4))
    with pytest.raises(ValueError, match="`viscosity` must be a number, at least 0.003; got 0.001"):
        jg.equations.burgers_1d(viscosity=0.001)


def test_without_periodic_features_the_solution_of_helmholtz_equation_is_given_on_the_edge():
    equation = jg.equations.helmholtz_2d((30, 30), periodic=False)
    params = equation.init(jr.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1051
    _, edge = equation.points(jr.key(0), (25, 16))
    assert edge.shape == (16, 2)
    np.testing.assert_array_equal(np.abs(edge).max(axis=1), 1)
    np.testing.assert_allclose(jax.vmap(equation.solution)(edge), 0, atol=1e-13)
    u = jax.jit(equation.field(params))
    assert abs(u(jnp.array([-1.0, 0.2])) - u(jnp.array([1.0, 0.2]))) > 1e-3


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


def test_partial_derivatives_by_name_are_those_of_nested_derivatives():
    def u(scale, x):
        return scale * jnp.stack([jnp.sin(x[0]) * x[1] ** 3, jnp.exp(x[1] * x[0])])

    @jax.jit
    def both(x):
        first = jax.jacfwd(lambda x: u(2.0, x))
        second, third = jax.jacfwd(first), jax.jacfwd(jax.jacfwd(first))
        expected = (first(x)[:, 0], second(x)[:, 0, 1], third(x)[:, 1, 1, 0], second(x)[:, 0, 1], second(x)[:, 1, 1])
        return partials(u, "t xt xxt tx xx", ["t", "x"])(2.0, x), expected

    for one, other in zip(*both(jr.normal(jr.key(0), (2,))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)
    with pytest.raises(ValueError, match="'ty' is not a derivative by the coordinates t, x"):
        partials(u, "ty", "tx")


def test_names_of_coordinates_may_begin_alike():
    found = jax.jit(partials(lambda x: x[0] * x[1] ** 2, "x xx1 x1x1", ("x", "x1")))(jnp.array([2.0, 3.0]))
    assert [float(each) for each in found] == [9, 6, 4]


def test_the_laplacian_of_a_vector_is_that_of_its_entries():
    x = jr.normal(jr.key(0), (3,))
    found = jax.jit(laplacian(lambda x: jnp.stack([x @ x, x[0] ** 3])))(x)
    np.testing.assert_allclose(found, [6, 6 * x[0]], rtol=1e-13)


def test_a_box_draws_within_itself_and_on_its_faces():
    box = Box(t=(0, 2), x=(-1, 3))
    points = np.asarray(box.uniform(jr.key(0), 2000))
    assert not box.outside(points).any()
    np.testing.assert_allclose(points.mean(axis=0), [1, 1], atol=0.1)
    assert box.outside(np.array([[1.0, 3.0 + 1e-12], [1.0, 3.0], [-0.1, 0.0]])).tolist() == [True, False, True]
    edge = np.asarray(Condition(lambda model, point: model, box.faces("x")).draw(jr.key(1), 7))
    assert (edge[:4, 1] == -1).all()
    assert (edge[4:, 1] == 3).all()
    assert len(set(edge[:, 0])) == 7
    assert box.faces()[0] == box.face(t=0)
    assert box.face(t=0).is_face
    assert not box.is_face


def test_a_factor_vanishes_where_it_is_asked_to_and_nowhere_else():
    box = Box(t=(0, 2), x=(-1, 3))
    factor = jax.jit(jax.vmap(lambda point: box.vanishing(point, t=0, x=(-1, 3))))
    t, x = box.uniform(jr.key(0), 50).T
    np.testing.assert_allclose(factor(jnp.stack([t, x], axis=-1)), t / 2 * (x + 1) * (3 - x) / 4, rtol=1e-12)
    for face in (box.face(t=0), *box.faces("x")):
        assert not factor(face.uniform(jr.key(1), 9)).any()
    np.testing.assert_allclose(box.vanishing(jnp.array([0.5, 0.0]), t=2), 0.75)
    np.testing.assert_allclose(box.scaled(jnp.array([2.0, 0.0])), [1, -0.5])


def test_features_are_periodic_in_what_they_are_asked_to_be():
    box = Box(t=(0, 2), x=(-1, 3))
    features = Periodic(box, "x", modes=3)
    at = jax.jit(features)
    one, other = at(np.array([0.5, -1.0])), at(np.array([0.5, 3.0]))
    assert one.shape == (features.size,)
    np.testing.assert_allclose(one, other, atol=1e-14)
    np.testing.assert_allclose(one[0], -0.5)
    # Three frequencies: the features of 100 places span as many dimensions, and the two of t and of a constant.
    points = np.stack([np.full(100, 0.5), np.linspace(-1, 3, 100)], axis=-1)
    assert np.linalg.matrix_rank(jax.jit(jax.vmap(features))(points)) == 7
    assert Periodic(box).size == jax.eval_shape(Periodic(box), jnp.zeros(2)).size == 4


def test_fourier_features_are_no_parameters():
    features = Fourier(Box(x=(0, 1), y=(0, 1)), 500, 3.0, key=jr.key(0))
    assert jax.tree.leaves(features) == []
    assert features(jnp.array([0.3, 0.4])).shape == (features.size,) == (1000,)
    np.testing.assert_allclose(np.std(features.frequencies), 3, rtol=0.1)
    slope = jax.jit(jax.jacfwd(features))(jnp.array([0.5, 0.5]))[500:]
    # sin(π B (2x − 1)) has the slope 2π B in the middle.
    np.testing.assert_allclose(slope, 2 * np.pi * np.array(features.frequencies), rtol=1e-12)


@pytest.mark.parametrize(
    "make", [jg.equations.heat_inverse, pytest.param(jg.equations.burgers_inverse, marks=pytest.mark.slow)]
)
def test_an_inverse_problem_is_met_by_its_coefficient_and_no_other(make):
    sought = make((4,), count=30)
    points, values = sought.measurements(jr.key(0))
    np.testing.assert_allclose(values, jax.jit(jax.vmap(sought.equation.solution))(points), rtol=1e-13)
    equation, measurements = sought.conditions(jr.key(0))
    params = sought.init(jr.key(1))
    np.testing.assert_allclose(sought.estimate(params), sought.start)
    np.testing.assert_allclose(measurements.residual_at(params, (points[3], values[3])),
                               sought.equation.field(params["network"])(points[3]) - values[3])  # fmt: skip
    # The residual is that of the estimate: the solution of one coefficient does not solve the equation of another.
    for coefficient, most in ((sought.coefficient, 1e-12), (2 * sought.coefficient, np.inf)):
        made = sought.make(coefficient)
        residual = jax.jit(lambda point, made=made: made.residual(sought.equation.solution, point))(points[3])
        assert abs(residual) < most
    assert abs(residual) > 1e-6
    assert equation.places == measurements.places == (sought.equation.box,)


def test_noise_and_the_standard_error_are_as_they_should_be():
    sought = jg.equations.heat_inverse((4,), count=4000, noise=0.05)
    points, values = sought.measurements(jr.key(0))
    t, x = np.asarray(points).T
    exact = np.exp(-0.1 * np.pi**2 * t) * np.sin(np.pi * x)
    np.testing.assert_allclose(np.std(values - exact), 0.05, rtol=0.05)
    # ∂u/∂κ = −π²t u.
    np.testing.assert_allclose(sought.standard_error(points), 0.05 / np.linalg.norm(np.pi**2 * t * exact), rtol=1e-12)
