"""Networks that can be differentiated in only one mode, against the same networks with both modes."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_way import forward_tanh, reverse_tanh

import jaxgeo as jg
from jaxgeo.linalg import CG, LSMR, SVD, DenseCholesky, GramCholesky, NormalCholesky
from jaxgeo.linalg.linearisation import Linearisation

INPUTS = jnp.linspace(-1.0, 1.0, 8)
TRUTH = {"a": jnp.asarray(2.0), "b": jnp.asarray(3.0)}
START = {"a": jnp.asarray(1.0), "b": jnp.asarray(1.0)}


class Curve(eqx.Module):
    """a tanh(bx)."""

    tanh: object = eqx.field(static=True)

    def __call__(self, params, x):
        return params["a"] * self.tanh(params["b"] * x)


def problem_of(tanh):
    return jg.Problem(Curve(tanh), INPUTS, jg.L2(jax.vmap(Curve(jnp.tanh), (None, 0))(TRUTH, INPUTS)))


def perceptron(tanh):
    model = eqx.nn.MLP(1, 1, 8, 1, activation=tanh, key=jax.random.key(0))
    return jg.supervised(model, INPUTS[:, None], jnp.sin(3 * INPUTS)[:, None])


ONE_WAY = pytest.mark.parametrize("tanh", [reverse_tanh, forward_tanh])


LIFTS = [
    (tanh, solver, make)
    for tanh in (reverse_tanh, forward_tanh)
    for solver in (SVD(), CG(), GramCholesky(), NormalCholesky(), LSMR(), DenseCholesky())
    for make in (problem_of, perceptron)
]
FAST = [(reverse_tanh, GramCholesky(), problem_of), (forward_tanh, SVD(), problem_of)]


@pytest.mark.parametrize(
    ("tanh", "solver", "make"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in LIFTS)]
)
def test_every_lift_is_that_of_the_same_network_with_both_modes(tanh, solver, make):
    def lifted(tanh):
        made = make(tanh)
        problem, params = made if isinstance(made, tuple) else (made, START)
        return jg.lift(problem, params, jnp.cos(INPUTS)[:, None], solver, damping=1e-3)

    ours, theirs = jax.tree.leaves(lifted(tanh)), jax.tree.leaves(lifted(jnp.tanh))
    for own, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, its, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tanh", [pytest.param(reverse_tanh, marks=pytest.mark.slow), forward_tanh])
def test_the_gram_matrix_and_its_diagonal(tanh):
    @eqx.filter_jit
    def all_of(problem, params):
        gram = problem.gram(params)
        return gram.as_matrix(), gram.diagonal(), gram.jacobian.as_matrix(), gram.jacobian.as_matrix(chunk_size=3)

    for ours, theirs in zip(all_of(*perceptron(tanh)), all_of(*perceptron(jnp.tanh)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_factors_are_still_found_around_a_custom_rule():
    problem, params = perceptron(reverse_tanh)
    routes = [leaf.route for leaf in problem.gram(params).plan().leaves]
    ordinary, params = perceptron(jnp.tanh)
    assert routes == [leaf.route for leaf in ordinary.gram(params).plan().leaves]


@pytest.mark.parametrize(("tanh", "word"), [(reverse_tanh, "in reverse only"), (forward_tanh, "in forward mode only")])
def test_the_plans_say_so(tanh, word):
    problem = problem_of(tanh)
    assert word in str(problem.gram(START).plan())
    assert f"{word}: D, 8 × 2" in str(problem.plan(START))
    assert not problem_of(jnp.tanh).plan(START).derivatives


@pytest.mark.parametrize("tanh", [reverse_tanh, pytest.param(forward_tanh, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "tx",
    [
        jg.optim.adapted_levenberg_marquardt(),
        pytest.param(jg.optim.linear_interpolation(num_steps=10), marks=pytest.mark.slow),
    ],
    ids=["levenberg-marquardt", "interpolation"],
)
def test_optimizers_find_the_truth(tanh, tx):
    problem = problem_of(tanh)

    def update(_, carry):
        params, state = carry
        updates, state = tx.update(params, state, params, problem=problem)
        return optax.apply_updates(params, updates), state

    params, _ = jax.jit(lambda start: jax.lax.fori_loop(0, 20, update, start))((START, tx.init(START)))
    for name, value in TRUTH.items():
        assert abs(params[name] - value) < 1e-12


@pytest.mark.slow
@ONE_WAY
def test_fit_needs_no_gradient_that_is_not_there(tanh):
    found = jg.fit(START, problem_of(tanh), method="levenberg-marquardt", tol=1e-20, max_steps=30, record_every=30)
    assert abs(found.model["b"] - 3) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tanh", "flow"),
    [
        (reverse_tanh, jg.StandardFlow()),
        (forward_tanh, jg.StandardFlow()),
        (reverse_tanh, jg.UnderparametrizedFlow()),
        (forward_tanh, jg.UnderparametrizedFlow()),
    ],
)
def test_flows_end_where_those_of_the_same_network_do(tanh, flow):
    ours, theirs = (jg.solve_flow(problem_of(f), flow, START, s1=1.0).params for f in (tanh, jnp.tanh))
    for name in TRUTH:
        assert abs(ours[name] - theirs[name]) < 1e-9


def test_a_gradient_alone_does_not_make_the_matrix():
    """K = 10⁵ and QN = 2000: D would take 1.6 GB."""

    def wide(params, x):
        return reverse_tanh(params * x)[:2]

    problem = jg.Problem(wide, jnp.ones(1000), jg.L2(jnp.ones((1000, 2))))

    def velocity(params):
        return jg.StandardFlow()(0.0, params, problem)

    compiled = jax.jit(velocity).lower(jnp.ones(100_000)).compile()
    memory = compiled.memory_analysis()
    assert memory is None or memory.temp_size_in_bytes < 1.6e9


def test_an_update_evaluates_the_network_in_three_places():
    """With D, at a trial and for a slope: each place is a copy of the network to compile, perhaps a solver."""
    problem, tx = problem_of(reverse_tanh), jg.optim.adapted_levenberg_marquardt(solver=GramCholesky())

    def update(params, state):
        return tx.update(None, state, params, problem=problem)

    assert jax.jit(update).lower(START, tx.init(START)).as_text().count("stablehlo.tanh") <= 3


@pytest.mark.parametrize("tanh", [reverse_tanh, pytest.param(forward_tanh, marks=pytest.mark.slow)])
def test_d_in_the_metric_of_the_cost_is_made_from_d(tanh):
    """With a prior, whose rows no metric scales, and with a metric that couples the outputs of a sample."""
    inputs, labels = jnp.stack([INPUTS, INPUTS**2], axis=1), jnp.arange(8) % 3

    def linearised(tanh):
        model = eqx.nn.MLP(2, 3, 4, 1, activation=tanh, key=jax.random.key(1))
        problem, params = jg.supervised(model, inputs, jg.SoftmaxCrossEntropy.from_labels(labels, num_classes=3))
        linear = Linearisation(problem.with_prior(params, 0.3), params, jg.metrics.CostHessian())
        return linear.jacobian.as_matrix(), linear.jacobian.outputs, linear.outputs, linear.residual

    for ours, theirs in zip(*(jax.jit(linearised, static_argnums=0)(f) for f in (tanh, jnp.tanh)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_network_without_either_mode_is_refused_with_the_leaves():
    def neither(params, x):
        return forward_tanh(params["a"] * x) + reverse_tanh(params["a"] * params["b"] * x)

    problem = jg.Problem(neither, INPUTS, jg.L2(INPUTS))
    with pytest.raises(ValueError, match=r"`a`: .*custom_vjp.*`b`: .*diffrax\.DirectAdjoint"):
        problem.jacobian(START)
    # Frozen, the one that has neither is no hindrance.
    problem = jg.Problem(neither, INPUTS, jg.L2(INPUTS), trainable={"a": False, "b": True})
    assert problem.jacobian(START).held is not None


def test_acceleration_is_refused_in_reverse_only():
    tx = jg.optim.adapted_levenberg_marquardt(acceleration=0.75)
    problem, params = perceptron(reverse_tanh)
    with pytest.raises(ValueError, match=r"`acceleration`.*in reverse mode"):
        tx.update(params, tx.init(params), params, problem=problem)


def lotka_volterra(coefficients, times):
    """Both populations at the times, by diffrax with its default adjoint."""

    def field(_, populations, coefficients):
        a, b, c, d = coefficients
        prey, predators = populations
        return jnp.stack([a * prey - b * prey * predators, -c * predators + d * prey * predators])

    return dfx.diffeqsolve(
        dfx.ODETerm(field),
        dfx.Tsit5(),
        0.0,
        10.0,
        0.1,
        jnp.ones(2),
        args=coefficients,
        saveat=dfx.SaveAt(ts=times),
        stepsize_controller=dfx.PIDController(rtol=1e-9, atol=1e-9),
    ).ys


TIMES, COEFFICIENTS = jnp.linspace(0.0, 10.0, 200), jnp.array([1.5, 1.0, 3.0, 1.0])
NEAR = jnp.array([1.42, 0.9, 2.8, 0.95])


def by_fit(data):
    problem = jg.Problem(lotka_volterra, TIMES, jg.L2(data), per_sample=False)
    return jg.fit(NEAR, problem, tol=1e-20, max_steps=30, record_every=10).model


def by_curve_fit(data):
    return jg.curve_fit(lambda times, *coefficients: lotka_volterra(coefficients, times), TIMES, data, NEAR).popt


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [by_fit, by_curve_fit])
def test_four_coefficients_of_lotka_and_volterra_through_a_solver(fitted):
    found = fitted(lotka_volterra(COEFFICIENTS, TIMES))
    np.testing.assert_allclose(found, COEFFICIENTS, rtol=0, atol=1e-8)
