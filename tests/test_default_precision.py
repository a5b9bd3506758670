"""JAX with its default precision, x64 off: jaxgeo's internal float64 needs no switch."""

import os
import subprocess
import sys

FLOW = """
import jax, jax.numpy as jnp, jaxgeo as jg
problem = jg.Problem(lambda a, x: jnp.tanh(a @ x), jnp.eye(2), jg.L2(jnp.array([0.5, -0.5])))
solution = jg.solve_flow(problem, jg.AdaptedFlow(), jnp.zeros(2), s1=4.0)
assert solution.params.dtype == jnp.float32
assert abs(float(solution.final_cost / problem.cost(jnp.zeros(2))) / jnp.exp(-4.0) - 1) < 1e-2
assert jg.linalg.Gram(problem.jacobian(jnp.zeros(2))).as_matrix(jnp.dtype("float64")).dtype == "float64"
assert not jax.config.jax_enable_x64

# A prior, whose lift factorises DDᵀ of the data in float64: ridge regression.
problem = jg.Problem(lambda a, x: a @ x, jnp.eye(2, 3), jg.L2(jnp.array([0.5, -0.5]))).with_prior(jnp.zeros(3), 0.25)
tx = jg.optim.adapted_levenberg_marquardt()
step, _ = tx.update(None, tx.init(jnp.zeros(3)), jnp.zeros(3), problem=problem)
assert step.dtype == jnp.float32
assert abs(step - jnp.array([0.4, -0.4, 0])).max() < 1e-3
"""


def test_a_flow_with_the_check_of_its_rank_and_an_update_with_a_prior():
    # As the fast tests compile.
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([sys.executable, "-c", FLOW], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
