"""Networks that raise an error at run time: a trial that does is rejected."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgeo as jg
from jaxgeo.linalg.trials import NanForErrors

INPUTS = jnp.linspace(-1.0, 1.0, 8)
START = {"a": jnp.asarray(1.0), "b": jnp.asarray(1.0)}


class Bounded(eqx.Module):
    """ax + bx², for |a| ≤ 2."""

    on_error: str = eqx.field(static=True)

    def __call__(self, params, x):
        bad = jnp.abs(params["a"]) > 2
        slope = eqx.error_if(params["a"], bad, "the slope is too large", on_error=self.on_error)
        return slope * x + params["b"] * x**2


def optimizers():
    yield "levenberg-marquardt", jg.optim.adapted_levenberg_marquardt()
    yield "momentum", jg.optim.adapted_momentum()
    yield "descent", jg.optim.adapted_gradient_descent(learning_rate=1.0)
    yield "interpolation", jg.optim.linear_interpolation()


SLOW = ("momentum", "descent", "interpolation")


@pytest.mark.parametrize(
    "tx",
    [pytest.param(tx, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, tx in optimizers()],
)
def test_an_error_is_as_good_as_nan(tx):
    """The first step leads to a = 10, where the network raises."""

    def trained(on_error):
        problem = jg.Problem(Bounded(on_error), INPUTS, jg.L2(10 * INPUTS))

        def update(_, carry):
            params, state = carry
            updates, state = tx.update(None, state, params, problem=problem)
            return jax.tree.map(jnp.add, params, updates), state

        return jax.jit(lambda start: jax.lax.fori_loop(0, 4, update, start))((START, tx.init(START)))[0]

    found, wanted = trained("raise"), trained("nan")
    assert found == wanted
    assert 1 < found["a"] <= 2


def test_an_error_at_the_start_is_raised():
    problem = jg.Problem(Bounded("raise"), INPUTS, jg.L2(10 * INPUTS))
    with pytest.raises(eqx.EquinoxRuntimeError, match="the slope is too large"):
        jg.fit(START | {"a": jnp.asarray(3.0)}, problem, max_steps=2)


def test_callbacks_of_the_network_are_called_as_ever():
    """Two in a row, as in Equinox's error, but with values."""

    def twice(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        once = jax.pure_callback(lambda x: np.asarray(2 * x), shape, x, vmap_method="sequential")
        return jax.pure_callback(lambda y, x: np.asarray(y + x), shape, once, x, vmap_method="sequential")

    def apply(params, x):
        return jax.lax.cond(x > 0, twice, jnp.negative, params * x)

    points = jnp.asarray([-1.0, 2.0])
    outputs = jax.jit(lambda params: jax.lax.map(lambda x: NanForErrors(apply)(params, x), points))
    np.testing.assert_array_equal(outputs(jnp.asarray(3.0)), [3.0, 18.0])


@pytest.mark.slow
def test_a_solver_that_takes_too_many_steps_rejects_the_trial():
    """θ̈ = −k²θ by at most 64 steps: the first steps go to frequencies that need more."""

    def apply(params, times):
        term = dfx.ODETerm(lambda t, y, k: jnp.stack([k * y[1], -k * y[0]]))
        controller = dfx.PIDController(rtol=1e-8, atol=1e-8)
        start = jnp.asarray([0.0, 1.0])
        saved = dfx.SaveAt(ts=times)
        solution = dfx.diffeqsolve(
            term, dfx.Tsit5(), 0.0, 1.0, 0.01, start, params["k"], saveat=saved, stepsize_controller=controller,
            max_steps=64,
        )  # fmt: skip
        return params["scale"] * solution.ys[:, 0]

    times = jnp.linspace(0.05, 1.0, 20)
    truth = {"k": jnp.asarray(4.0), "scale": jnp.asarray(100.0)}
    problem = jg.Problem(apply, times, jg.L2(apply(truth, times)), per_sample=False)
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        problem.cost(truth | {"k": jnp.asarray(200.0)})
    start = {"k": jnp.asarray(1.0), "scale": jnp.asarray(1.0)}
    found = jg.fit(start, problem, method="levenberg-marquardt", tol=1e-20, max_steps=40, record_every=40)
    np.testing.assert_allclose(found.model["k"], 4.0, rtol=1e-8)
