"""Lifts in float32 with x64 off, which use float64 internally: under every transformation, without any switch.

It runs in a separate process, because the other tests have x64 on.
"""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import jaxgeo as jg

SETUP = """
import jax, jax.numpy as jnp, numpy as np, warnings
warnings.simplefilter("error")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
import equinox as eqx, jaxgeo as jg
from jaxgeo.linalg import *

rng = np.random.default_rng(0)
inputs = jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)
# A network that makes arrays in the default dtype: they must stay float32.
problem = jg.Problem(lambda p, x: jnp.tanh(p @ x) * jnp.ones(5) + jnp.zeros(5), inputs, jg.L2(jnp.ones((4, 5))))
params = jnp.asarray(0.3 * rng.standard_normal((5, 3)), jnp.float32)
lost = eqx.tree_at(lambda p: p.blocks[0].inputs, problem, inputs.at[3].set(inputs[2]).at[1].set(inputs[0]))
rows = jnp.asarray(rng.standard_normal((4, 5)), jnp.float32)

dense = eqx.filter_jit(lambda problem, params: problem.jacobian(params).as_matrix())

def expected(problem, params):
    matrix = np.asarray(dense(problem, params), np.float64)
    return (np.linalg.pinv(matrix, rcond=1e-5) @ np.asarray(rows, np.float64).reshape(-1)).reshape(5, 3)

def close(value, reference, tol=2e-5):
    assert value.dtype == jnp.float32, value.dtype
    error = np.abs(np.asarray(value) - reference).max() / np.abs(reference).max()
    assert error < tol, error
"""

BODY = """
solver = {solver}
def lift(params, problem):
    return solver.solve(problem.jacobian(params), rows)[0]
several = jnp.stack([params, 0.5 * params, -params])
lift_several = eqx.filter_jit(eqx.filter_vmap(eqx.filter_jit(lift), in_axes=(0, None)))

for case in (problem, lost):
    for value, params_ in zip(lift_several(several, case), several):
        close(value, expected(case, params_))

slope = jax.jvp(jax.jit(lambda scale: lift(scale * params, problem).sum()), (jnp.float32(1),), (jnp.float32(1),))[1]
h = 1e-2
difference = (expected(problem, (1 + h) * params) - expected(problem, (1 - h) * params)).sum() / (2 * h)
close(slope, np.asarray(difference), 1e-3)
assert not jax.config.jax_enable_x64
assert jnp.ones(2).dtype == jnp.float32
"""

REPEATED = """
solver = {solver}
def walk(scale):
    def step(carry, _):
        return carry + jnp.float32(0.1) * solver.solve(problem.jacobian(carry), rows)[0], None
    return jax.lax.scan(step, scale * params, length=2)[0].sum()

scales = jnp.asarray([0.5, 1.0], jnp.float32)
slopes = jax.vmap(jax.grad(walk))(scales)
assert slopes.dtype == jnp.float32
again = jax.jit(jax.grad(lambda scales: jax.vmap(walk)(scales).sum()))(scales)
close(slopes, np.asarray(again, np.float64), 1e-3)
ahead = [jax.jvp(jax.jit(walk), (scale,), (jnp.ones_like(scale),))[1] for scale in scales]
close(slopes, np.asarray(ahead, np.float64), 1e-3)
h = 1e-2
for scale, slope in zip(scales, slopes):
    close(slope, np.asarray((walk(scale + h) - walk(scale - h)) / (2 * h), np.float64), 2e-2)
assert not jax.config.jax_enable_x64
assert jnp.ones(2).dtype == jnp.float32
"""

# Here a lift holds the factors of D, and multiplies by them in float64.
WIDE = """
inputs = jnp.asarray(rng.standard_normal((40, 8)), jnp.float32)
wide = jg.Problem(lambda p, x: p[1] @ jnp.tanh(p[0] @ x), inputs, jg.L2(jnp.ones((40, 1))))
params = tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((64, 8), (1, 64)))
rows = jnp.asarray(rng.standard_normal((40, 1)), jnp.float32)
assert wide.gram(params).plan(jnp.dtype("float64")).kept > 0

def lift(scale):
    scaled = jax.tree.map(lambda leaf: scale * leaf, params)
    return jnp.concatenate([leaf.reshape(-1) for leaf in GramCholesky().solve(wide.jacobian(scaled), rows)[0]])

def exact(scale):
    first, second = (scale * np.asarray(leaf, np.float64) for leaf in params)
    hidden = np.tanh(np.asarray(inputs, np.float64) @ first.T)
    inner = (second * (1 - hidden**2))[:, :, None] * np.asarray(inputs, np.float64)[:, None]
    return np.linalg.pinv(np.concatenate([inner.reshape(40, -1), hidden], axis=1)) @ np.asarray(rows, np.float64)[:, 0]

scales = jnp.asarray([0.5, 1.0, 2.0], jnp.float32)
for scale, value in zip(scales, jax.vmap(jax.jit(lift))(scales)):
    close(value, exact(float(scale)), 1e-5)
slope = (exact(1 + 1e-5) - exact(1 - 1e-5)) / 2e-5
close(jax.jvp(jax.jit(lift), (jnp.float32(1),), (jnp.float32(1),))[1], slope, 1e-4)
total = jax.jit(jax.grad(lambda scale: jnp.dot(lift(scale), jnp.asarray(slope, jnp.float32))))(jnp.float32(1))
close(total, np.asarray(slope @ slope), 1e-4)
"""

FLOW = """
for case, flow in ((problem, jg.AdaptedFlow()), (lost, jg.RankAdaptiveFlow())):
    case = eqx.tree_at(lambda p: p.loss.targets, case, jnp.full((4, 5), 0.3))
    end = jg.solve_flow(case, flow, 0.1 * params, s1=2.0, rank_check=False).params
    assert end.dtype == jnp.float32
    assert float(case.cost(end)) < float(case.cost(0.1 * params))
record = rank_record(0.0, params, lost)
# Equal inputs have equal targets here, so that nothing of the gradient is lost.
assert int(record.rank) == 10 and float(record.outside) < 1e-6, record
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


OTHERS = ["GramCholesky()", "QR()", "NormalCholesky(chunk_size=3)", "GramEigh()"]


@pytest.mark.slow
def test_a_lift_that_holds_factors():
    run(SETUP + WIDE)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["Auto()", *OTHERS])
def test_lift_under_vmap_of_jit_and_differentiated(solver):
    run(SETUP + BODY.format(solver=solver))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["Auto()", *OTHERS])
def test_lift_in_scans_under_every_transformation(solver):
    run(SETUP + REPEATED.format(solver=solver))


@pytest.mark.slow
def test_flows_and_the_record_of_the_rank():
    run(SETUP + FLOW)


@pytest.mark.slow
def test_digits_take_as_many_steps_in_float32_as_in_float64():
    """By default settings, N = 100 digits to s/N = 12: the same steps, and the cost on its law to float32's floor."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    steps = {}
    for dtype in (jnp.float32, jnp.float64):
        model = eqx.nn.MLP(64, 10, 64, 2, activation=jnp.tanh, key=jax.random.key(0), dtype=dtype)
        targets = jnp.eye(10, dtype=dtype)[digits.target[:100]]
        problem, params = jg.supervised(model, jnp.asarray(digits.data[:100] / 16, dtype), jg.L2(targets))
        solution = jg.solve_flow(problem, jg.OverparametrizedFlow(), params, s1=1200.0, rtol=1e-4, rank_check=False)
        steps[dtype] = int(solution.stats["num_steps"])
        assert abs(float(solution.defect[-1])) < (0.1 if dtype == jnp.float32 else 1e-2)
    assert steps[jnp.float32] <= 1.5 * steps[jnp.float64]
