"""The parameters that the data do not fix, as `fit` reports them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from jaxgeo.equations import Condition, Network


def test_a_combination_of_coefficients_that_a_single_mode_leaves_open():
    """u_t = a u_xx + b u_x + c u for u = e^{(c − a)t} sin(x + bt) fixes b and c − a."""
    a, b, c = 0.1, 0.2, 0.3
    t, x = (each.ravel() for each in np.meshgrid(np.linspace(0, 1, 6), np.linspace(0, 6, 9)))
    grown, phase = np.exp((c - a) * t), x + b * t
    u, slope = grown * np.sin(phase), grown * np.cos(phase)
    rows = np.stack([-u, slope, u, (c - a) * u + b * slope], axis=1)

    def rates(p, row):
        return p["a"] * row[0] + p["b"] * row[1] + p["c"] * row[2]

    start = {name: jnp.zeros(()) for name in "abc"}
    found = jg.fit(start, rows, rows[:, 3], apply=rates, method="levenberg-marquardt", tol=0.0)
    assert found.cost < 1e-28
    assert found.unfixed == ("a", "c")
    assert found.open_directions == 1
    np.testing.assert_allclose([found.model["b"], found.model["c"] - found.model["a"]], [b, c - a], rtol=1e-12)
    assert "not fixed by the data: 1 combination of a, c" in str(found)


def test_those_of_a_network_under_conditions_are_counted_for_each_array():
    """The rate and the last bias are only known by their sum, and nothing depends on `idle`."""
    model = {"network": Network((1, 4, 1), float, key=jax.random.key(0)), "rate": jnp.ones(()), "idle": jnp.ones(3)}

    def residual(model, point):
        return model["network"](point)[0] + model["rate"] - point[0] + 0 * model["idle"][2]

    equation = Condition(residual, None, points=np.linspace(0, 1, 30)[:, None])
    found = jg.fit(model, equation, warmup=0, max_steps=2, points="fixed")
    assert {"rate", "idle", "network.layers[1].bias"} <= set(found.unfixed)
    line = next(line for line in str(found).splitlines() if "not fixed" in line)
    weights = sum(name.startswith("network.layers[0].weight[") for name in found.unfixed)
    assert f"network.layers[0].weight ({weights} of 4)" in line or "network.layers[0].weight" in found.unfixed
    assert line.startswith(f"not fixed by the data: {found.open_directions} combinations of idle, network.layers")
    assert line.endswith(", rate (normal for the weights of a network)")


@pytest.mark.slow
def test_leaves_and_entries_without_influence_are_named():
    x = np.linspace(0.0, 2.0, 12)

    def curve(p, x):
        return p["size"][0] * jnp.exp(-p["rate"] * x) + 0 * p["idle"] @ p["idle"] + 0 * p["size"][1]

    start = {"size": jnp.ones(2), "rate": jnp.ones(()), "idle": jnp.ones(3)}
    y = 2 * np.exp(-1.5 * x) + 0.1 * np.cos(17 * x)
    found = jg.fit(start, x, y, apply=curve, method="levenberg-marquardt")
    assert found.unfixed == ("idle", "size[1]")
    assert found.open_directions == 4
    np.testing.assert_array_equal(found.model["idle"], 1.0)


@pytest.mark.slow
def test_nothing_is_said_where_all_is_fixed_or_on_minibatches():
    x = np.linspace(0.0, 2.0, 12)
    y = 2 * np.exp(-1.5 * x) + 0.1 * np.cos(17 * x)

    def curve(p, x):
        return p[0] * p[2] * jnp.exp(-p[1] * x)

    fixed = jg.fit(jnp.ones(2), x, y, apply=lambda p, x: p[0] * jnp.exp(-p[1] * x), method="levenberg-marquardt")
    assert (fixed.unfixed, fixed.open_directions) == ((), 0)
    batches = jg.fit(jnp.ones(3), x, y, apply=curve, method="levenberg-marquardt", batch_size=6, max_steps=4)
    assert batches.unfixed == ()


@pytest.mark.slow
def test_what_has_run_off_is_not_fixed():
    """A step between two points: its place and slope go on for ever, at the same cost."""
    x = np.arange(12.0)
    y = np.where(x < 6, 0.0, 1.0) + 0.01 * np.cos(5 * x) * (x >= 6)
    start = {"height": jnp.ones(()), "place": jnp.ones(()), "slope": jnp.ones(())}
    found = jg.fit(
        start,
        x,
        y,
        apply=lambda p, x: p["height"] / (1 + jnp.exp(-(p["place"] + p["slope"] * x))),
        method="levenberg-marquardt",
        tol=0.0,
    )
    assert found.unfixed == ("place", "slope")
    np.testing.assert_allclose(found.model["height"], y[6:].mean(), rtol=1e-6)


@pytest.mark.slow
def test_what_a_bound_holds_is_fixed_by_it():
    x = np.linspace(0.0, 2.0, 12)
    found = jg.fit(
        jnp.array([1.0, 0.5]), x, 1 + 2 * x, apply=lambda p, x: p[0] + p[1] * x, bounds=(-jnp.inf, [3.0, 0.5]), tol=0.0
    )
    np.testing.assert_allclose(found.model, [np.mean(1 + 2 * x - 0.5 * x), 0.5], rtol=1e-12)
    assert found.unfixed == ()
