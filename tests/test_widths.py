"""Parameters, inputs and outputs of several dtypes, and the states of optimizers as pytrees."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import jaxgeo as jg
from jaxgeo.linalg.solvers.base import SOLVED

INPUTS = jnp.linspace(-1.0, 1.0, 8)
TARGETS = 2 * jnp.tanh(3 * INPUTS)


def network(params, x):
    return params["a"] @ jnp.tanh(params["b"] * x + params["c"])


def start(units, dtype=jnp.float64):
    a, b, c = jax.random.normal(jax.random.key(0), (3, units), dtype)
    return {"a": a / 3, "b": b, "c": c}


MAKERS = {
    "levenberg-marquardt": jg.optim.adapted_levenberg_marquardt,
    "interpolation": lambda apply: jg.optim.linear_interpolation(apply, num_steps=3),
    "momentum": lambda apply: jg.optim.adapted_momentum(apply, learning_rate=0.5, damping=1e-3),
    "descent": lambda apply: jg.optim.adapted_gradient_descent(apply, learning_rate=0.5, damping=1e-2),
    "metric": lambda apply: jg.optim.scale_by_adapted_metric(apply, damping=1e-2),
}
EACH = pytest.mark.parametrize("name", list(MAKERS))


def trained(name, params, inputs, targets, steps=25):
    """The cost in float64 before and after, the parameters and the state."""
    tx = MAKERS[name](network)

    def update(_, carry):
        params, state = carry
        updates, state = tx.update(None, state, params, inputs=inputs, targets=targets)
        rate = -0.5 if name == "metric" else 1.0
        updates = jax.tree.map(lambda leaf: jnp.asarray(rate, leaf.dtype) * leaf, updates)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        begin = params, tx.init(params)
        found, state = jax.jit(lambda begin: jax.lax.fori_loop(0, steps, update, begin))(begin)
        exact = jg.Problem(network, INPUTS, jg.L2(TARGETS))
        costs = [float(exact.cost(jax.tree.map(lambda leaf: leaf.astype(float), tree))) for tree in (params, found)]
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, params)
    return *costs, found, state


CASES = {
    "float32 parameters, float64 inputs": lambda: (start(12, jnp.float32), INPUTS, TARGETS),
    "one float32 leaf": lambda: (start(12) | {"b": start(12, jnp.float32)["b"]}, INPUTS, TARGETS),
    "bfloat16, K < QN": lambda: (start(2, jnp.bfloat16), INPUTS.astype(jnp.bfloat16), TARGETS.astype(jnp.bfloat16)),
    "float16, K > QN": lambda: (start(12, jnp.float16), INPUTS.astype(jnp.float16), TARGETS.astype(jnp.float16)),
}
FAST = [("momentum", "bfloat16, K < QN")]
OTHERS = ("levenberg-marquardt", "momentum", "interpolation")
SLOW = [(name, case) for name in OTHERS for case in CASES if (name, case) not in FAST]


@pytest.mark.parametrize(("name", "case"), [*FAST, *(pytest.param(*which, marks=pytest.mark.slow) for which in SLOW)])
def test_every_width_trains_as_well_as_its_digits_allow(name, case):
    params, inputs, targets = CASES[case]()
    before, after, _, state = trained(name, params, inputs, targets)
    assert all(leaf.dtype.itemsize >= 4 for leaf in jax.tree.leaves(state.info) if eqx.is_inexact_array(leaf))
    if name == "levenberg-marquardt":
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
        assert after < 30 * eps**2
    elif name == "momentum":
        assert after < 0.1 * before


@EACH
@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_every_optimizer_takes_every_width(name, case):
    trained(name, *CASES[case](), steps=2)


@pytest.mark.slow
def test_a_weakly_typed_start_is_compiled_once():
    traces = []

    def line(params, x):
        traces.append(None)
        return params * x

    tx = jg.optim.adapted_levenberg_marquardt(line)
    params = jnp.array(0.5)
    assert params.weak_type
    updates, state = tx.update(None, tx.init(params), params, inputs=INPUTS, targets=TARGETS)
    first = len(traces)
    params = optax.apply_updates(params, updates)
    tx.update(None, state, params, inputs=INPUTS, targets=TARGETS)
    assert len(traces) == first


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [start(12) | {"b": start(12, jnp.float32)["b"]}, start(12, jnp.bfloat16)],
    ids=["one float32 leaf", "bfloat16"],
)
def test_a_flow_keeps_the_dtype_of_each_leaf(params):
    dtype = jnp.bfloat16 if params["a"].dtype == jnp.bfloat16 else jnp.float64
    problem = jg.Problem(network, INPUTS.astype(dtype), jg.L2(TARGETS.astype(dtype)))
    with jax.numpy_dtype_promotion("standard"):
        solution = jg.solve_flow(problem, jg.StandardFlow(), params, s1=1.0)
    assert {name: leaf.dtype for name, leaf in solution.params.items()} == {
        name: leaf.dtype for name, leaf in params.items()
    }
    wide = jax.tree.map(lambda leaf: leaf.astype(float), params)
    exact = jg.Problem(network, problem.inputs.astype(float), jg.L2(problem.loss.targets.astype(float)))
    true = jg.solve_flow(exact, jg.StandardFlow(), wide, s1=1.0)
    assert abs(float(solution.final_cost) / float(true.final_cost) - 1) < 1e-3


@EACH
def test_a_fresh_state_owns_its_buffers(name):
    """XLA refuses to donate one buffer twice; a pickled state is the same pytree."""
    params = start(12)
    state = MAKERS[name](network).init(params)
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    again = pickle.loads(pickle.dumps(state))
    assert eqx.tree_equal(again, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levenberg-marquardt", "descent"])
def test_no_gradients_are_as_good_as_those_of_the_batch(name):
    tx, params = MAKERS[name](network), start(12)
    problem = jg.Problem(network, INPUTS, jg.L2(TARGETS))
    given, _ = tx.update(jax.grad(problem.cost)(params), tx.init(params), params, problem=problem)
    none, _ = tx.update(None, tx.init(params), params, problem=problem)
    for mine, its in zip(jax.tree.leaves(none), jax.tree.leaves(given), strict=True):
        assert jnp.allclose(mine, its, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_a_random_key_among_the_parameters_has_no_update():
    params = start(2) | {"key": jax.random.key(3)}
    tx = jg.optim.adapted_levenberg_marquardt(network)
    updates, _ = tx.update(None, tx.init(params), params, inputs=INPUTS, targets=TARGETS)
    assert updates["key"] is None
    assert jnp.array_equal(
        jax.random.key_data(eqx.apply_updates(params, updates)["key"]), jax.random.key_data(params["key"])
    )


@pytest.mark.parametrize("damping", [None, 1e-3])
def test_a_network_that_computes_in_a_narrower_dtype_is_not_mistaken_for_a_fault(damping):
    """Mixed precision: DDᵀ and products with D round differently, by far more than the parameters' dtype explains."""

    def mixed(params, x):
        narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        return (narrow["a"] @ jnp.tanh(narrow["b"] @ x.astype(jnp.bfloat16))).astype(jnp.float32)

    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"a": (2, 16), "b": (16, 3)}
    params = {name: jax.random.normal(key, shapes[name], jnp.float32) for name, key in zip(shapes, keys, strict=False)}
    ones = jnp.ones((10, 2), jnp.float32)
    problem = jg.Problem(mixed, jax.random.normal(keys[2], (10, 3), jnp.float32), jg.L2(ones))
    solve = jax.jit(lambda params: jg.linalg.GramCholesky().solve(problem.jacobian(params), ones, damping))
    _, info = solve(params)
    assert int(info.outcome) == SOLVED
    assert float(info.residual) < 0.1
