"""Samples and parameters over a mesh give the same results as on one device. `sharded.py` runs the cases."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxgeo as jg
from cases.problems import cases

TESTS = Path(__file__).parent


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A script of this folder, in a process with its own devices."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, script, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=TESTS, env=environment, stdout=pipe, stderr=pipe, text=True)


def printed(process: subprocess.Popen[str]) -> Any:
    """The JSON in the last line that it prints."""
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def run(script: str, *arguments: str) -> Any:
    return printed(start(script, *arguments))


def processes(count: int, *killed: str) -> list[subprocess.Popen[str]]:
    """A training run over several processes on this machine; `killed` says at which step the last one dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    last = count - 1
    return [start("processes.py", port, str(i), str(count), *(killed if i == last else ())) for i in range(count)]


def check(differences: dict[str, float]) -> None:
    assert len(differences) >= 11
    assert {name: error for name, error in differences.items() if not error <= 1e-12} == {}


@pytest.mark.slow
def test_gram_and_lift_are_the_same_on_a_mesh():
    check(run("sharded.py"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1", "2", "4", "8", "4x2"])
@pytest.mark.parametrize("part", ["linear algebra", "flows", "optimizers"])
def test_all_is_the_same_on_any_mesh(mesh, part):
    check(run("sharded.py", mesh, part))


@pytest.mark.slow
def test_a_layer_that_is_spread_over_devices_is_not_gathered():
    found = run("sharded.py", "gathered")
    assert len(found) == 5
    assert {name: size for name, size in found.items() if size >= 4096} == {}


@pytest.mark.slow
def test_a_checkpoint_is_restored_onto_another_mesh():
    pytest.importorskip("orbax.checkpoint")
    assert {name: error for name, error in run("sharded.py", "checkpoint").items() if not error <= 1e-12} == {}


@pytest.fixture(scope="module")
def memory() -> dict[str, tuple[int, int]]:
    """For each route and number of devices: bytes as planned, and as XLA allocates them."""
    return run("sharded.py", "memory")


@pytest.mark.slow
def test_the_plan_knows_what_each_device_allocates(memory):
    assert len(memory) == 21
    assert {name: sizes for name, sizes in memory.items() if not 1 / 1.5 <= sizes[0] / sizes[1] <= 1.5} == {}


@pytest.mark.slow
def test_a_device_holds_its_share_but_for_the_replicated_factor(memory):
    # Of QN = 1024: DDᵀ, its damped copy and the factor, which every device holds in whole.
    replicated = 3 * 8 * 1024**2
    two, eight = (memory[f"square, GramCholesky, float64, {count}"][1] - replicated for count in (2, 8))
    assert eight <= 1.3 * two / 4
    for name in ("square, CG, DDᵀ held", "square, CG", "wide, GramCholesky, float64", "tall, LSMR"):
        two, eight = (memory[f"{name}, {count}"][1] for count in (2, 8))
        assert eight <= 1.3 * two / 4


@pytest.mark.slow
def test_several_processes_train_as_one():
    (alone,) = [printed(process) for process in processes(1)]
    assert alone[-1] < 0.95 * alone[0]
    for count in (2, 4):
        found = [printed(process) for process in processes(count)]
        assert all(costs == found[0] for costs in found)
        np.testing.assert_allclose(found[0], alone, rtol=1e-12)


@pytest.mark.slow
def test_a_process_that_dies_makes_the_others_fail():
    survivor, killed = processes(2, "2")
    try:
        killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL
        _, err = survivor.communicate(timeout=60)
        assert survivor.returncode not in (0, None)
        assert "Connection" in err or "heartbeat" in err or "another task died" in err
    finally:
        survivor.kill()


def mesh(*names: str) -> jax.sharding.Mesh:
    return jax.make_mesh((1,) * len(names), names, axis_types=(AxisType.Auto,) * len(names))


def test_errors_say_what_to_do():
    problem = cases()["dict"].problem
    with pytest.raises(ValueError, match="got 'rows', and the mesh has samples, model"):
        jg.shard_samples(problem, mesh("samples", "model"), "rows")
    explicit = jax.make_mesh((1,), ("samples",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match=r"got AxisType.Explicit\. Make it with"):
        jg.shard_samples(problem, explicit)
    coupled = jg.Problem(lambda a, x: x - jnp.mean(x, 0) + a, jnp.eye(2), jg.L2(jnp.eye(2)), per_sample=False)
    with pytest.raises(ValueError, match="couples its samples"):
        jg.shard_samples(coupled, mesh("samples"))


def test_the_plan_marks_what_auto_takes():
    problem = cases()["dict"].problem
    for width, damping, memory, label in (
        (4, None, 10**9, "GramCholesky, float64, D if that fails"),
        (4, 1e-3, 10**9, "GramCholesky, float64"),
        (4, 1e-3, 1000, "CG"),
        # Here a step through the network costs more than reading DDᵀ.
        (200, 1e-3, 1000, "CG, DDᵀ held"),
        (200, None, 1000, "CG"),
    ):
        params = {"W": jnp.ones((width, 2)), "b": jnp.ones(width), "v": jnp.ones((2, width))}
        plan = problem.plan(params, damping=damping, memory=memory)
        assert plan.chosen.label == label
        assert type(plan.chosen.solver) is type(plan.choice.solver)
        assert f"→ {label}" in str(plan)
        assert str(plan).endswith(str(plan.choice))


def test_a_problem_can_be_sharded_again():
    case = cases()["dict"]
    once = jg.shard_samples(case.problem, mesh("samples"))
    twice = jg.shard_samples(once, mesh("other"), "other")
    assert twice.blocks[0].num_samples == case.problem.num_samples
    assert jnp.all(twice.outputs(case.params) == case.problem.outputs(case.params))
