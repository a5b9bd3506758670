"""Sharded results against those on one device: `python sharded.py [mesh part | memory | checkpoint | gathered]`.

Prints JSON, on eight simulated devices: for each mesh and case the relative difference. It runs as a separate process,
because the number of devices is fixed before JAX starts.
"""

import json
import math
import os
import pathlib
import re
import sys
import tempfile

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxgeo as jg
from cases.problems import Layer
from jaxgeo.linalg import CG, QR, DenseCholesky, Gram, GramCholesky, GramEigh, NormalCholesky

MESHES = {"1": (1,), "2": (2,), "4": (4,), "8": (8,), "4x2": (4, 2)}
DAMPING = 1e-3


def mesh_of(name: str) -> jax.sharding.Mesh:
    shape = MESHES[name]
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, ("samples", "model")[: len(shape)])


def network(num_samples: int, width: int, num_outputs: int = 2) -> tuple[jg.Problem, dict]:
    """A layer of `width` on normal points; K > QN for a wide one, K < QN for a narrow one."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    params = {"W": normal(width, 2), "b": normal(width), "v": normal(num_outputs, width) / width**0.5}
    problem = jg.Problem(Layer(), normal(num_samples, 2), jg.L2(normal(num_samples, num_outputs)))
    return problem, params


def residuals(num_samples: int) -> tuple[jg.Problem, dict]:
    """Two blocks of points, of which neither number is a multiple of the other."""
    _, params = network(num_samples, 12, 1)
    params |= {"W": params["W"][:, :1]}

    def inner(params, x):
        return jax.grad(lambda x: Layer()(params, x[None])[0])(x) + 1.0

    def ends(params, x):
        return Layer()(params, x[None])

    points = jnp.linspace(-1.0, 1.0, num_samples)
    return jg.residual_problem([(inner, points[:9], 1.0), (ends, points[9:], 4.0)]), params


def wide_on_model_axis(params, mesh):
    """The parameters with the hidden units spread over the mesh's last axis."""
    axis = mesh.axis_names[-1]
    specs = {"W": PartitionSpec(axis), "b": PartitionSpec(axis), "v": PartitionSpec(None, axis)}
    return {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in params.items()}


def velocity(problem, params):
    return -problem.loss.gradient(problem.outputs(params))


def lift(solver, damping=None):
    return lambda problem, params: jg.lift(problem, params, velocity(problem, params), solver, damping=damping)


def train(transformation):
    """Three steps of an optimizer, and its last state."""

    @eqx.filter_jit
    def step(params, state, problem):
        gradient = jax.grad(problem.cost)(params)
        updates, state = transformation.update(gradient, state, params, problem=problem)
        return optax.apply_updates(params, updates), state

    def run(problem, params):
        state = transformation.init(params)
        for _ in range(3):
            params, state = step(params, state, problem)
        return params, problem.cost(params)

    return run


def flow(flow):
    return lambda problem, params: eqx.filter_jit(flow)(0.2, params, problem)


def recomputed(problem, params):
    """G where memory is one byte short of what the factors of all samples take."""
    jacobian = problem.jacobian(params)
    gram = Gram(jacobian, memory=Gram(jacobian).plan().bytes - 1)
    assert not gram.plan().stored
    return gram.as_matrix()


GRAMS = {
    "gram": lambda problem, params: problem.gram(params).as_matrix(),
    "diagonal": lambda problem, params: problem.gram(params).diagonal(),
    "jacobian": lambda problem, params: problem.jacobian(params).as_matrix(),
}
LIFTS = {
    "GramCholesky": lift(GramCholesky()),
    "damped GramCholesky": lift(GramCholesky(), DAMPING),
    # Through DᵀD the condition number counts twice.
    "damped NormalCholesky": lift(NormalCholesky(chunk_size=3), 0.1),
}
MORE_LIFTS = {
    "Auto": lift(None),
    "damped Auto": lift(None, DAMPING),
    "DenseCholesky": lift(DenseCholesky()),
    "GramEigh": lift(GramEigh()),
    "QR": lift(QR()),
    "damped CG": lift(CG(rtol=1e-14), DAMPING),
}
FLOWS = {
    "StandardFlow": flow(jg.StandardFlow()),
    "OverparametrizedFlow": flow(jg.OverparametrizedFlow()),
    "AdaptedFlow": flow(jg.AdaptedFlow()),
    "AdaptedFlow, damped": flow(jg.AdaptedFlow(damping=DAMPING)),
    "RankAdaptiveFlow": flow(jg.RankAdaptiveFlow()),
    "InterpolationFlow": flow(jg.InterpolationFlow()),
    "HomotopyFlow": flow(jg.HomotopyFlow(0.5)),
    "solve_flow": lambda problem, params: (
        jg.solve_flow(problem, jg.AdaptedFlow(damping=DAMPING), params, s1=2.0).params
    ),
}
OPTIMIZERS = {
    "adapted_gradient_descent": train(jg.optim.adapted_gradient_descent(learning_rate=0.5, damping=DAMPING)),
    "scale_by_adapted_metric": train(
        optax.chain(jg.optim.scale_by_adapted_metric(damping=DAMPING), optax.scale_by_learning_rate(0.5))
    ),
    "adapted_momentum": train(jg.optim.adapted_momentum(learning_rate=0.5)),
    "adapted_levenberg_marquardt": train(jg.optim.adapted_levenberg_marquardt()),
    "linear_interpolation": train(jg.optim.linear_interpolation(num_steps=3)),
}


def difference(found, expected) -> float:
    """Relative, in the largest norm."""
    found, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))])
        for tree in (found, expected)
    )
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def nowhere(params, mesh):
    """The parameters as they are."""
    return params


def compare(problem, params, meshes, cases, lay_out=nowhere) -> dict:
    expected = {name: case(problem, params) for name, case in cases.items()}
    found = {}
    for mesh_name in meshes:
        mesh = mesh_of(mesh_name)
        sharded, placed = jg.shard_samples(problem, mesh), lay_out(params, mesh)
        for name, case in cases.items():
            found[f"{mesh_name}: {name}"] = difference(case(sharded, placed), expected[name])
    return found


def labelled(label: str, found: dict) -> dict:
    return {f"{label}, {name}": error for name, error in found.items()}


def quick() -> dict:
    """A few cases of each kind."""
    return (
        labelled("N = 13", compare(*network(13, 14), ["8"], GRAMS | LIFTS))
        | labelled("wide layer on its own axis", compare(*network(13, 14), ["4x2"], LIFTS, wide_on_model_axis))
        | labelled("two blocks", compare(*residuals(20), ["8"], GRAMS))
        | labelled("N = 61", compare(*network(61, 14), ["8"], {"factors computed again": recomputed}))
    )


def thorough(mesh: str, part: str) -> dict:
    """All flows and optimizers, or all else, on one mesh."""
    lay_out = wide_on_model_axis if mesh == "4x2" else nowhere
    if part == "optimizers":
        softmax, params = network(13, 14)
        cost = jg.SoftmaxCrossEntropy.from_labels(jnp.arange(13) % 2)
        softmax = jg.Problem(Layer(), softmax.blocks[0].inputs, cost)
        marquardt = {name: OPTIMIZERS[name] for name in ("adapted_levenberg_marquardt",)}
        return (
            labelled("N = 13", compare(*network(13, 14), [mesh], OPTIMIZERS, lay_out))
            | labelled("N = 16", compare(*network(16, 16), [mesh], OPTIMIZERS, lay_out))
            | labelled("softmax", compare(softmax, params, [mesh], marquardt))
        )
    if part == "flows":
        return labelled("N = 13", compare(*network(13, 14), [mesh], FLOWS, lay_out)) | labelled(
            "N = 16", compare(*network(16, 16), [mesh], FLOWS)
        )
    narrow = {
        "Auto": lift(None),
        "damped Auto": lift(None, DAMPING),
        "damped NormalCholesky": LIFTS["damped NormalCholesky"],
    }
    damped = {name: lift for name, lift in LIFTS.items() if name.startswith("damped")}
    return (
        labelled("N = 13", compare(*network(13, 14), [mesh], GRAMS | LIFTS | MORE_LIFTS, lay_out))
        | labelled("N = 16", compare(*network(16, 16), [mesh], GRAMS | LIFTS))
        | labelled("N = 61", compare(*network(61, 14), [mesh], {"factors computed again": recomputed}))
        | labelled("K < QN", compare(*network(61, 3), [mesh], narrow))
        | labelled("two blocks", compare(*residuals(20), [mesh], GRAMS | damped))
    )


def gathered() -> dict:
    """For several routes, how many numbers the largest all-gather brings together; W has 8192, over two devices."""
    problem, params = network(16, 4096)
    mesh = mesh_of("4x2")
    arguments = jg.shard_samples(problem, mesh), wide_on_model_axis(params, mesh)
    cases = {
        "GramCholesky": lift(GramCholesky()),
        "damped CG": lift(CG(), DAMPING),
        "damped CG, DDᵀ held": lift(CG(hold_gram=True), DAMPING),
        "adapted_levenberg_marquardt": one_step(jg.optim.adapted_levenberg_marquardt()),
        "adapted_gradient_descent": one_step(jg.optim.adapted_gradient_descent(learning_rate=0.5, damping=DAMPING)),
    }
    arrays, static = eqx.partition(arguments, eqx.is_array)
    found = {}
    for name, case in cases.items():
        compiled = jax.jit(lambda arrays, case=case: case(*eqx.combine(arrays, static))).lower(arrays).compile()
        shapes = re.findall(r"\[([\d,]+)\]\S* all-gather\(", compiled.as_text())
        found[name] = max([math.prod(map(int, shape.split(","))) for shape in shapes], default=0)
    return found


def one_step(transformation):
    def run(problem, params):
        gradient = jax.grad(problem.cost)(params)
        return transformation.update(gradient, transformation.init(params), params, problem=problem)[0]

    return run


def allocated(problem, params, solver, damping) -> int:
    """What XLA allocates on each device for the compiled lift: arguments, result, and all in between."""
    mesh = problem.blocks[0].sharding and problem.blocks[0].sharding.mesh
    velocity = jnp.zeros((problem.num_samples, problem.num_rows(params) // problem.num_samples))
    if mesh is not None:
        params, velocity = jax.device_put((params, velocity), NamedSharding(mesh, PartitionSpec()))
    arrays, static = eqx.partition((problem, params, velocity), eqx.is_array)
    compiled = jax.jit(lambda arrays: jg.lift(*eqx.combine(arrays, static), solver, damping=damping))
    found = compiled.lower(arrays).compile().memory_analysis()
    return found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes


def memory() -> dict:
    """For each route and number of devices: bytes as planned, bytes as XLA allocates them."""
    found = {}
    cases = {
        "square": (network(512, 600), DAMPING, ("GramCholesky, float64", "CG, DDᵀ held", "CG")),
        "wide": (network(128, 40_000), None, ("GramCholesky, float64",)),
        "tall": (network(1500, 120), None, ("NormalCholesky, float64", "DenseCholesky", "LSMR")),
    }
    for case, ((problem, params), damping, labels) in cases.items():
        for mesh in ("1", "2", "8"):
            sharded = problem if mesh == "1" else jg.shard_samples(problem, mesh_of(mesh))
            routes = {route.label: route for route in sharded.plan(params, damping=damping).routes}
            for label in labels:
                route = routes[label]
                taken = allocated(sharded, params, route.solver, damping)
                found[f"{case}, {label}, {mesh}"] = [route.bytes, taken]
    return found


def checkpoint() -> dict:
    """Two steps on a mesh, saved with orbax, restored onto a mesh of another shape, and two steps more."""
    import orbax.checkpoint as ocp

    problem, params = network(13, 14)
    transformation = jg.optim.adapted_levenberg_marquardt()
    first, second = mesh_of("8"), mesh_of("4x2")

    @eqx.filter_jit
    def two_steps(params, state, problem):
        for _ in range(2):
            updates, state = transformation.update(params, state, params, problem=problem)
            params = optax.apply_updates(params, updates)
        return params, state

    state = transformation.init(params)
    on_first = jg.shard_samples(problem, first)
    saved = two_steps(*jax.device_put((params, state), NamedSharding(first, PartitionSpec())), on_first)
    everywhere = NamedSharding(second, PartitionSpec())
    wide = jax.tree.map(lambda leaf: leaf.sharding, wide_on_model_axis(params, second))
    shardings = (wide, jax.tree.map(lambda _: everywhere, saved[1]))
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), saved, shardings
    )
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(pathlib.Path(folder) / "step", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(pathlib.Path(folder) / "step", target)
    assert restored[0]["W"].sharding.spec == PartitionSpec("model")
    there = two_steps(*restored, jg.shard_samples(problem, second))
    return {"restored": difference(restored, saved), "after": difference(there, two_steps(*saved, on_first))}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    parts = {"memory": memory, "checkpoint": checkpoint, "gathered": gathered}
    if sys.argv[1:] and sys.argv[1] in parts:
        print(json.dumps(parts[sys.argv[1]]()))
    else:
        jax.config.update("jax_disable_most_optimizations", True)
        print(json.dumps(thorough(*sys.argv[1:]) if sys.argv[1:] else quick()))
