"""One process of a training run over several: `python processes.py port index count [step at which it is killed]`.

Prints the costs as JSON. The same script serves one process, which then shards nothing.
"""

import json
import os
import signal
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxgeo as jg


def costs(problem, params, killed_at):
    transformation = jg.optim.adapted_levenberg_marquardt()
    state = transformation.init(params)

    @eqx.filter_jit
    def step(params, state, problem):
        gradient = jax.grad(problem.cost)(params)
        updates, state = transformation.update(gradient, state, params, problem=problem)
        return optax.apply_updates(params, updates), state

    found = []
    for count in range(5):
        if count == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        params, state = step(params, state, problem)
        found.append(float(problem.cost(params)))
    return found


def main(port: str, index: str, count: str, killed_at: str = "-1") -> None:
    jax.config.update("jax_enable_x64", True)
    if count != "1":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index), heartbeat_timeout_seconds=10)
    # Made after JAX knows of the other processes; 13 samples are a multiple of neither 2 nor 4.
    keys = jax.random.split(jax.random.key(1), 2)
    inputs, targets = jax.random.normal(keys[0], (13, 2)), jax.random.normal(keys[1], (13, 2))
    model = eqx.nn.MLP(2, 2, 14, 1, activation=jnp.tanh, key=jax.random.key(0))
    problem, params = jg.supervised(model, inputs, targets)
    if count != "1":
        mesh = jax.make_mesh((jax.device_count(),), ("samples",), axis_types=(jax.sharding.AxisType.Auto,))
        problem = jg.shard_samples(problem, mesh)
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    print(json.dumps(costs(problem, params, int(killed_at))))


if __name__ == "__main__":
    main(*sys.argv[1:])
