"""`jaxgeo.fit` on differential equations and problems: points, held-out data, endings and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import jaxgeo as jg
from jaxgeo.equations import Box, Condition, Network, partials
from jaxgeo.fitting.bar import Bar
from jaxgeo.fitting.collocation import collocate
from jaxgeo.optim import Outcome

TIME = Box(t=(0, 2))
PLANE = Box(t=(0, 1), x=(-1, 1))
# Of the same kind in all tests, so that they share programs.
SHORT = {"warmup": 0, "max_steps": 20, "record_every": 5}


def network(sizes=(1, 8, 1), seed=0):
    return Network(sizes, jnp.float64, key=jr.key(seed))


def value(model, point):
    return 1 + point[0] * model(point)[0]


def decay(model, point):
    """u' = −u from u(0) = 1, so u = e^{−t}."""
    (slope,) = partials(value, "t", "t")(model, point)
    return slope + value(model, point)


def error(model, points):
    return float(jnp.abs(jax.vmap(value, (None, 0))(model, points) - jnp.exp(-points[:, 0])).max())


GRID = jnp.linspace(0, 2, 40)[:, None]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.fixture(scope="module")
def solved():
    return jg.fit(network(), Condition(decay, TIME, count=60), warmup=40, max_steps=60, record_every=20)


def test_an_equation_is_solved_between_its_points(solved):
    assert error(solved.model, GRID) < 1e-5
    assert solved.validation_cost == min(row["validation_cost"] for row in solved.rows[1:])
    # Half the mean square of the residual, at points that nobody trained on.
    residuals = jax.vmap(decay, (None, 0))(solved.model, TIME.uniform(jr.key(9), 500))
    assert 0.2 < float(jnp.mean(residuals**2)) / 2 / solved.validation_cost < 5


def test_what_is_printed_names_the_end_and_both_costs(solved):
    text = str(solved)
    assert text.startswith("max_steps: all allowed steps are used up, after 100 steps")
    assert f"cost {solved.cost:.2e}" in text
    assert f"held-out cost {solved.validation_cost:.2e}, a root mean square of" in text


def test_the_start_is_not_counted_and_its_rows_are_there(solved):
    assert [row["step"] for row in solved.rows] == [0, 40, 60, 80, 100]
    assert ["rank" in row for row in solved.rows[:3]] == [False, False, True]


@pytest.mark.slow
def test_a_network_that_interpolates_is_found_out_and_gets_other_points():
    condition = Condition(decay, TIME, count=3)
    fixed = jg.fit(network(), condition, points="fixed", **SHORT)
    assert fixed.rows[-1]["validation_cost"] > 1e3 * fixed.rows[-1]["cost"]
    assert "the network interpolates its training data" in str(fixed)
    assert fixed.rows[-1]["drawn"] == 0
    drawn = jg.fit(network(), condition, **SHORT)
    assert drawn.rows[-1]["drawn"] >= 2
    assert fixed.validation_cost == min(row["validation_cost"] for row in fixed.rows[1:])
    problem = jg.residual_problem([(decay, TIME.uniform(jr.key(5), 400), 1.0)])
    assert float(problem.cost(fixed.model)) < 3 * fixed.validation_cost


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uniform", "residual"])
def test_points_are_drawn_anew_every_so_many_updates(kind):
    found = jg.fit(
        network(), Condition(decay, TIME, count=12), points=kind, renew_every=10, **{**SHORT, "max_steps": 30}
    )
    # Those that it begins with count as drawn at update 0.
    assert [row["drawn"] for row in found.rows] == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_runs_of_one_seed_are_alike_and_of_another_not():
    options = {**SHORT, "max_steps": 5}
    one, two, other = (jg.fit(network(), Condition(decay, TIME, count=12), seed=seed, **options) for seed in (0, 0, 1))
    assert same(one.model, two.model)
    assert one.rows == two.rows
    assert not same(one.model, other.model)


@pytest.mark.slow
def test_a_line_search_forgets_its_value_at_other_points():
    """The first update after a change of points is that of the same state with its value unknown."""
    seen = []

    def watch():
        inner = optax.lbfgs()

        def update(grads, state, params, *, value, **extra):
            jax.debug.callback(lambda *pair: seen.append(pair), value, extra["problem"].cost(params))
            return inner.update(grads, state, params, value=value, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    with jax.numpy_dtype_promotion("standard"):
        found = jg.fit(network(), Condition(decay, TIME, count=5), method=watch(), renew_every=5, **SHORT)
        jax.effects_barrier()
    assert found.rows[-1]["drawn"] == 3
    assert len(seen) == 20
    np.testing.assert_allclose(*np.array(seen).T, rtol=1e-12)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_last_bit(tmp_path):
    condition, options = Condition(decay, TIME, count=5), {"warmup": 10, "max_steps": 30, "record_every": 5}
    whole = jg.fit(network(), condition, **options)
    stop = [lambda progress, model: progress.step >= 20]
    half = jg.fit(network(), condition, folder=tmp_path, callbacks=stop, **options)
    assert (half.outcome, half.steps) == (Outcome.STOPPED, 20)
    assert half.rows[-1]["drawn"] > 0
    again = jg.fit(network(), condition, folder=tmp_path, resume=True, **options)
    assert again.rows == whole.rows
    assert same(again.model, whole.model)
    with pytest.raises(ValueError, match="renew_every was None and is 5"):
        jg.fit(network(), condition, folder=tmp_path, resume=True, renew_every=5, **options)


def test_time_ends_a_run_and_stagnation_too():
    condition = Condition(decay, TIME, count=60)
    assert jg.fit(network(), condition, max_seconds=1e-9, **SHORT).outcome is Outcome.MAX_SECONDS
    stays = jg.fit(network(), condition, method=optax.sgd(0.0), patience=2, **SHORT)
    assert (stays.outcome, stays.steps) == (Outcome.EARLY, 15)


def test_a_tolerance_is_reached_where_the_cost_elsewhere_is_there_too():
    found = jg.fit(network(), Condition(decay, TIME, count=3), tol=1e-3, **{**SHORT, "points": "fixed"})
    assert found.cost < 1e-3 * found.initial_cost
    assert found.outcome is not Outcome.REACHED
    found = jg.fit(network(), Condition(decay, TIME, count=60), tol=1e-3, **SHORT)
    assert found.outcome is Outcome.REACHED
    assert found.validation_cost <= 1e-3 * found.initial_cost


@pytest.mark.slow
def test_an_unknown_coefficient_is_one_more_parameter():
    """u' = −c u with measurements of e^{−3t/2}."""

    def decays(model, point):
        (slope,) = partials(measured, "t", "t")(model, point)
        return slope + model["rate"] * measured(model, point)

    def measured(model, point):
        return value(model["network"], point)

    conditions = [
        Condition(decays, TIME, count=60),
        Condition(measured, TIME, points=GRID, values=jnp.exp(-1.5 * GRID[:, 0])),
    ]
    model = {"network": network(), "rate": jnp.array(0.3)}
    found = jg.fit(model, conditions, warmup=0, max_steps=60)
    assert abs(float(found.model["rate"]) - 1.5) < 1e-3


def test_a_tenth_of_measurements_is_held_out_and_none_is_trained_on():
    condition = Condition(value, TIME, points=GRID, values=jnp.arange(40.0))
    params = network()
    trained, held = collocate([condition], params, None, 0)
    kept, out = trained.draw(jr.key(0))[0], held.draw(jr.key(0))[0]
    assert (len(kept[1]), len(out[1])) == (36, 4)
    assert sorted([*kept[1].tolist(), *out[1].tolist()]) == list(range(40))
    np.testing.assert_array_equal(out[0], GRID[out[1].astype(int)])


def test_given_points_are_trained_on_and_others_of_their_place_held_out():
    trained, held = collocate([Condition(decay, TIME, points=GRID)], network(), None, 0)
    np.testing.assert_array_equal(trained.draw(jr.key(0))[0], GRID)
    out = held.draw(jr.key(0))[0]
    assert out.shape == GRID.shape
    assert not np.isin(np.asarray(out), np.asarray(GRID)).any()


@pytest.mark.slow
def test_several_outputs_and_boundary_values():
    """A system: u' = v, v' = −u from (0, 1), whose solution is (sin t, cos t), by one network with two outputs."""
    pair = network((1, 10, 2))

    def turn(model, point):
        (slope,) = partials(lambda model, point: model(point), "t", "t")(model, point)
        u, v = model(point)
        return slope - jnp.stack([v, -u])

    start = Condition(lambda model, point: model(point), TIME.face(t=0), values=lambda point: jnp.array([0.0, 1.0]))
    found = jg.fit(pair, [Condition(turn, TIME, count=60), start], warmup=0, max_steps=60)
    exact = jnp.stack([jnp.sin(GRID[:, 0]), jnp.cos(GRID[:, 0])], axis=-1)
    np.testing.assert_allclose(jax.vmap(found.model)(GRID), exact, atol=1e-3)


def test_a_problem_is_trained_as_it_is_and_what_is_frozen_stays():
    params = {"slope": jnp.array(0.0), "offset": jnp.array(1.0)}

    def line(params, x):
        return params["slope"] * x + params["offset"]

    x = jnp.arange(4.0)
    problem = jg.Problem(line, x, jg.L2(3 * x + 1), trainable={"slope": True, "offset": False})
    held_out = jg.Problem(line, x + 0.5, jg.L2(3 * x + 2.5), trainable={"slope": True, "offset": False})
    for method in (None, "sgd"):
        found = jg.fit(params, problem, method=method, tol=1e-8, validation=held_out)
        assert found.outcome is Outcome.REACHED
        assert float(found.model["slope"]) == pytest.approx(3, abs=1e-3)
        assert float(found.model["offset"]) == 1
        assert found.rows[-1]["validation_cost"] == pytest.approx(float(held_out.cost(found.model)))


@pytest.mark.slow
def test_a_flow_follows_the_residuals_at_fixed_points():
    found = jg.fit(network((1, 12, 1)), Condition(decay, TIME, count=6), method="adapted", tol=1e-2)
    assert found.outcome is Outcome.REACHED
    assert found.cost == pytest.approx(1e-2 * found.initial_cost, rel=1e-4)
    assert "validation_cost" in found.rows[-1]


def test_a_ready_equation_has_the_cost_of_its_problem():
    equation = jg.equations.heat_1d((4,))
    params, static = eqx.partition(equation.init(jr.key(0)), eqx.is_array)
    trained, held = collocate(equation.conditions(), params, static, 0)
    assert [len(points) for points in held.draw(jr.key(0))] == [900, 120]
    # Also of numbers that are no grid's.
    assert [len(points) for points in trained.draw(jr.key(0), (10, 7))] == [10, 7]
    points = equation.points(jr.key(0), (9, 6))
    np.testing.assert_allclose(trained.problem(points).cost(params), equation.problem(points).cost(params), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "widths"), [("poisson_2d", (16,)), ("heat_1d", (16,)), ("kovasznay_2d", (12, 12))])
def test_a_ready_equation_is_solved_in_one_call(name, widths):
    equation = getattr(jg.equations, name)(widths)
    found = jg.fit(equation.init(jr.key(0)), equation, warmup=1000, max_steps=100)
    assert equation.error(found.model, equation.elsewhere(jr.key(1), 500)) < 1e-2
    assert found.validation_cost < 1e-3


def test_a_residual_that_is_not_finite_is_named_with_its_condition_and_point():
    def broken(model, point):
        return decay(model, point) / jnp.where(point[0] > 1.5, 0.0, 1.0)

    conditions = [Condition(decay, TIME, count=12), Condition(broken, TIME, points=GRID)]
    with pytest.raises(
        ValueError, match=r"the residual 'broken' is not finite at 10 of 40 points, the first .* \(t\) = \(1\.53846\)"
    ):
        jg.fit(network(), conditions, **SHORT)

    def kink(model, point):
        return jnp.sqrt(model.layers[0].bias[0] - jax.lax.stop_gradient(model.layers[0].bias[0]))

    with pytest.raises(ValueError, match="the derivative by the parameters of the residual 'kink' is not finite"):
        jg.fit(network(), Condition(kink, TIME, count=12), **SHORT)


def test_a_cost_that_becomes_infinite_is_said_with_its_condition():
    found = jg.fit(network(), Condition(decay, TIME, count=12), method=optax.sgd(1e250), **SHORT)
    assert found.outcome is Outcome.FAILED
    assert "the residual 'decay' is not finite at 12 of 12 points" in found.message


def test_a_residual_written_for_a_batch_of_points_is_told_that_it_gets_one():
    def batched(model, points):
        return model(points)[:, 0]

    with pytest.raises(IndexError, match="Too many indices") as raised:
        jg.fit(network(), Condition(batched, Box(t=(0, 1))))
    told, *_ = raised.value.__notes__
    assert told.startswith("The residual batched was called with one point, of shape (1,). Write it for a single point")


def test_a_residual_of_another_network_is_refused():
    other = network()

    def of_other(model, point):
        return decay(other, point)

    with pytest.raises(ValueError, match="the residual 'of_other' does not depend on the parameters"):
        jg.fit(network(), [Condition(decay, TIME, count=12), Condition(of_other, TIME, count=12)], **SHORT)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"points": "everywhere"}, "`points` must be one of 'residual', 'uniform', 'fixed'; got 'everywhere'"),
        ({"points": "fixed", "renew_every": 5}, "fixed `points` are never redrawn"),
        ({"renew_every": 7}, "a multiple of `record_every`; got 7 and 5"),
        ({"warmup": -1}, "`warmup` must be an integer of at least 0"),
        ({"max_seconds": 0.0}, "`max_seconds` must be positive"),
        ({"targets": GRID}, "`targets` only applies to samples and targets"),
        ({"batch_size": 4}, "`batch_size` only applies to samples and targets"),
        ({"validation": (GRID, GRID)}, "for conditions, `fit` creates the held-out points itself"),
        ({"method": "adapted", "renew_every": 5}, "`renew_every` is an option for the points of an optimizer"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(options, part):
    with pytest.raises(ValueError, match=part):
        jg.fit(network(), Condition(decay, TIME, count=12), **{**SHORT, **options})


def test_options_for_points_are_refused_with_arrays_and_targets_are_missed():
    with pytest.raises(ValueError, match="`points` is an option for the points of conditions"):
        jg.fit(network(), GRID, GRID, points="fixed")
    with pytest.raises(ValueError, match="`targets` are missing"):
        jg.fit(network(), GRID)
    with pytest.raises(ValueError, match="every condition must be"):
        jg.fit(network(), [Condition(decay, TIME), GRID])


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Condition(decay), "`where` must be a `jaxgeo.equations.Box`"),
        (
            lambda: Condition(decay, TIME, points=3 * GRID),
            r"26 of the 40 `points` of decay lie outside Box\(t=\(0, 2",
        ),
        (lambda: Condition(decay, PLANE, points=GRID), "must have 2 coordinates, t, x; got 1"),
        (lambda: Condition(decay, TIME, points=GRID, values=jnp.ones(3)), "got 3 values where 40 `points`"),
        (lambda: Condition(decay, TIME, values=jnp.ones(3)), "there are no `points`"),
        (lambda: Condition(decay, TIME, points=GRID, count=3), "`count` is the number of points to draw"),
        (lambda: Condition(decay, TIME, weight=0.0), "`weight` must be positive"),
        (lambda: Condition(decay, (TIME, PLANE)), "must have the same coordinates"),
        (lambda: Condition(decay, lambda key, count: GRID).draw(jr.key(0), 3), r"must draw points of shape \(3, d\)"),
        (lambda: Box(t=(1, 0)), "`t` must be two finite numbers"),
        (lambda: Box(), "a box needs coordinates"),
        (lambda: PLANE.face(t=2), "`t` must be a number, at least 0 and at most 1; got 2"),
        (lambda: PLANE.faces("y"), "no coordinate 'y'"),
        (lambda: PLANE.partials(decay, "t y"), "'y' is not a derivative by the coordinates t, x"),
        (lambda: PLANE.partials(decay, " "), "`wanted` must name derivatives"),
    ],
)
def test_conditions_and_boxes_that_cannot_be_meant(make, part):
    with pytest.raises(ValueError, match=part):
        make()


def test_the_bar_is_one_line_that_first_says_that_it_compiles(capsys):
    jg.fit(network(), Condition(decay, TIME, count=60), progress=True, **SHORT)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    said = [part.strip() for part in line.split("\r") if part.strip()]
    assert said[0] == "compiling …"
    assert sum("compiling" in part for part in said) == 1
    assert "step 20, cost " in said[-1]
    with Bar() as bar:
        assert bar.length == 0
    assert capsys.readouterr().err == ""
    # An error message that comes next begins where the line began.
    with pytest.raises(ValueError, match="pass one for each sample"):
        jg.fit(network(), jnp.ones((3, 1)), progress=True)
    assert capsys.readouterr().err == "\rcompiling …\r"


@pytest.mark.slow
def test_an_unknown_diffusivity_is_found_to_six_digits_and_within_its_noise():
    exact = jg.equations.heat_inverse((12,))
    found = jg.fit(exact.init(jr.key(0)), exact.conditions(jr.key(1)), warmup=500, max_steps=120)
    assert abs(float(exact.estimate(found.model)) / 0.1 - 1) < 1e-6
    assert exact.error(found.model, exact.equation.elsewhere(jr.key(2), 200)) < 1e-6
    noisy = jg.equations.heat_inverse((12,), noise=0.01)
    conditions = noisy.conditions(jr.key(1))
    found = jg.fit(noisy.init(jr.key(0)), conditions, warmup=500, max_steps=120)
    assert abs(float(noisy.estimate(found.model)) - 0.1) < 3 * float(noisy.standard_error(conditions[1].points))
