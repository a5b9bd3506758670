"""Samples and parameters over a mesh: the same results as on one device. `sharded.py` runs the cases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from problems import cases

import jaxgeo as jg

TESTS = Path(__file__).parent


def run(script: str, *arguments: str) -> dict[str, float]:
    """What a script of this folder prints, in a process with its own devices."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(differences: dict[str, float]) -> None:
    assert len(differences) > 20
    assert {name: error for name, error in differences.items() if not error <= 1e-12} == {}


@pytest.mark.slow
def test_gram_and_lift_are_the_same_on_any_mesh():
    check(run("sharded.py", "fast"))


@pytest.mark.slow
def test_every_flow_and_optimizer_is_the_same_on_any_mesh():
    check(run("sharded.py", "slow"))


def mesh(*names: str) -> jax.sharding.Mesh:
    return jax.make_mesh((1,) * len(names), names)


def test_errors_say_what_to_do():
    problem = cases()["dict"].problem
    with pytest.raises(ValueError, match="got 'rows', and the mesh has samples, model"):
        jg.shard_samples(problem, mesh("samples", "model"), "rows")
    coupled = jg.Problem(lambda a, x: x - jnp.mean(x, 0) + a, jnp.eye(2), jg.L2(jnp.eye(2)), per_sample=False)
    with pytest.raises(ValueError, match="couples its samples"):
        jg.shard_samples(coupled, mesh("samples"))


def test_a_problem_can_be_sharded_again():
    case = cases()["dict"]
    once = jg.shard_samples(case.problem, mesh("samples"))
    twice = jg.shard_samples(once, mesh("other"), "other")
    assert twice.blocks[0].num_samples == case.problem.num_samples
    assert jnp.all(twice.outputs(case.params) == case.problem.outputs(case.params))
