"""One damped lift: the structured Gram matrix compared with gradients, a dense Jacobian and other libraries."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import jaxgeo as jg
from benchmarks.harness import Case, environment, measure, peak_memory_mib, run_cases
from benchmarks.rivals import PACKAGES, RIVALS, Make, Method, gradients, nlls_gram, somax
from jaxgeo.equations import Network
from jaxgeo.linalg import GramCholesky

DAMPING = 1e-3
# These hold K² numbers. Trying them would take memory that the others need.
SQUARE = ("ssbroyden-optimistix", "optimistix BFGS")


def network(widths: Sequence[int], num_samples: int, dtype: Any = jnp.float32) -> tuple[jg.Problem, Any]:
    keys = jr.split(jr.key(1), 2)
    inputs = jr.normal(keys[0], (num_samples, widths[0]), dtype)
    targets = jr.normal(keys[1], (num_samples, widths[-1]), dtype)
    return jg.supervised(Network(tuple(widths), dtype, key=jr.key(0)), inputs, targets)


def poisson(widths: tuple[int, ...], interior: int, boundary: int) -> tuple[jg.Problem, Any]:
    """The residual of the 5-D Poisson equation, with the Laplacian by nested JVPs."""
    equation = jg.equations.poisson_5d(widths)
    return equation.problem(equation.points(jr.key(1), (interior, boundary))), equation.init(jr.key(0))


def our_calls(problem: jg.Problem, params: Any, *, dense: bool = True) -> dict[str, Callable[[], Any]]:
    """A plain gradient, the lift through the structured Gram matrix, and the same step through a dense D.

    The lift is timed twice: factored in the parameters' dtype without refinement, which is the same work as that of the
    others, and by the default solver, which factors in float64 and refines.
    """
    velocity = -problem.loss.gradient(problem.outputs(params))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda params: problem.cost(params)))

    @eqx.filter_jit
    def structured(params: Any, velocity: jax.Array) -> Any:
        return jg.lift(problem, params, velocity, GramCholesky(refinements=0), damping=DAMPING)

    @eqx.filter_jit
    def through_dense(params: Any, velocity: jax.Array) -> jax.Array:
        matrix = problem.jacobian(params).as_matrix()
        gram = matrix @ matrix.T
        n = len(gram)
        gram = gram.at[jnp.arange(n), jnp.arange(n)].add(DAMPING * jnp.trace(gram) / n)
        psi = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram, lower=True), velocity.reshape(-1))
        return matrix.T @ psi

    @eqx.filter_jit
    def by_default(params: Any, velocity: jax.Array) -> Any:
        return jg.lift(problem, params, velocity, damping=DAMPING)

    calls = {
        "gradient": lambda: gradient(params),
        "jaxgeo": lambda: structured(params, velocity),
        "jaxgeo, default solver": lambda: by_default(params, velocity),
    }
    if dense:
        calls["dense Jacobian"] = lambda: through_dense(params, velocity)
    return calls


def rival_calls(problem: jg.Problem, params: Any) -> dict[str, Callable[[], Any]]:
    """The first step of the other libraries except those in `SQUARE`; damped Gauss–Newton methods use our damping.

    If a library is not installed, or needs too much memory, its call fails and the results say so.
    """
    makes: dict[str, Make] = {
        "optax.adam": functools.partial(gradients, optax.adam(1e-3), steps=1),
        "optax.contrib.muon": functools.partial(gradients, optax.contrib.muon(1e-3), steps=1),
        "optax.lbfgs": functools.partial(gradients, optax.lbfgs(), search=True, steps=1),
        **{name: make for name, make in RIVALS.items() if not name.startswith("optax.") and name not in SQUARE},
        "nlls-gram": functools.partial(
            nlls_gram, init_damping=DAMPING, geodesic_acceleration=False, cache_jacobian=False
        ),
        "somax egn_mse": functools.partial(somax, lam0=DAMPING),
    }
    return {name: first_step(make, problem, params) for name, make in makes.items()}


def first_step(make: Make, problem: jg.Problem, params: Any) -> Callable[[], Any]:
    @functools.cache
    def made() -> tuple[Method, Any]:
        method = make(problem, params)
        return method, method.init()

    def call() -> Any:
        method, state = made()
        return method.advance(state)

    return call


def describe(problem: jg.Problem, params: Any, *rivals: str) -> dict[str, Any]:
    """Sizes, and the plan of the structured Gram matrix with the flops that it predicts."""
    plan = problem.gram(params).plan()
    return {
        "N": problem.num_samples,
        "QN": problem.num_rows(params),
        "K": problem.num_params(params),
        "dtype": str(jax.tree.leaves(params)[0].dtype),
        "damping": DAMPING,
        "plan": [vars(leaf) for leaf in plan.leaves],
        "predicted_gflop": sum(leaf.flops for leaf in plan.leaves) / 1e9,
        "environment": environment(*rivals),
    }


def case_a(num_samples: int = 512, repeats: int = 15) -> dict[str, Any]:
    """MLP 64-256-256-256-1, float32, with the other libraries."""
    problem, params = network([64, 256, 256, 256, 1], num_samples)
    rows = measure(our_calls(problem, params) | rival_calls(problem, params), repeats)
    square = f"not attempted: holds K² numbers, {4e-9 * problem.num_params(params) ** 2:.0f} GB"
    return describe(problem, params, *PACKAGES) | {"rows": rows | {name: {"failed": square} for name in SQUARE}}


def case_b() -> dict[str, Any]:
    """MLP 64-256-256-256-10, N = 256: against the Cholesky factorisation of a 2560² matrix alone."""
    problem, params = network([64, 256, 256, 256, 10], 256)
    gram = problem.gram(params).as_matrix()
    diagonal = jnp.arange(len(gram))
    gram = gram.at[diagonal, diagonal].add(DAMPING * jnp.trace(gram) / len(gram))
    cholesky = jax.jit(lambda matrix: jax.lax.linalg.cholesky(matrix, symmetrize_input=False))
    return describe(problem, params) | {
        "rows": measure(our_calls(problem, params, dense=False) | {"Cholesky alone": lambda: cholesky(gram)}, 9)
    }


def case_c() -> dict[str, Any]:
    """MLP 784-2048-2048-2048-10, K ≈ 10⁷, N = 205: gradients and the memory of the whole process."""
    problem, params = network([784, 2048, 2048, 2048, 10], 205)
    rows = measure(our_calls(problem, params, dense=False), 5)
    return describe(problem, params) | {"rows": rows, "peak_memory_mib": peak_memory_mib()}


def case_pde() -> dict[str, Any]:
    """The p5 residual at 10 065 parameters, N = 3500, float64, against the dense D."""
    jax.config.update("jax_enable_x64", True)
    problem, params = poisson((64, 64, 48, 48), 3000, 500)
    return describe(problem, params) | {"rows": measure(our_calls(problem, params), 3)}


def case_pde_wide() -> dict[str, Any]:
    """The p5 residual at width 512, N = 700, float64, against the dense D."""
    jax.config.update("jax_enable_x64", True)
    problem, params = poisson((512,) * 3, 600, 100)
    return describe(problem, params) | {"rows": measure(our_calls(problem, params), 3)}


def sweep(points: Sequence[tuple[Sequence[int], int]]) -> list[dict[str, Any]]:
    found = []
    for widths, num_samples in points:
        problem, params = network(widths, num_samples)
        sizes = describe(problem, params)
        rows = measure(our_calls(problem, params, dense=False), 5)
        found.append(
            {"widths": widths, **{key: sizes[key] for key in ("N", "QN", "K", "predicted_gflop")}, "rows": rows}
        )
    return found


def case_sweep() -> dict[str, Any]:
    """Time and predicted flops against N, Q, width and depth, one at a time."""
    return {
        "N": sweep([([64, 256, 256, 1], n) for n in (128, 256, 512, 1024, 2048)]),
        "Q": sweep([([64, 256, 256, q], 256) for q in (1, 2, 5, 10)]),
        "width": sweep([([64, w, w, 1], 512) for w in (64, 128, 256, 512, 1024)]),
        "depth": sweep([([64, *[256] * depth, 1], 512) for depth in (1, 2, 4, 8)]),
        "environment": environment(),
    }


if __name__ == "__main__":
    run_cases(
        "lift_speed",
        {
            "a": Case(case_a),
            "b": Case(case_b),
            "c": Case(case_c),
            "pde": Case(case_pde),
            "pde_wide": Case(case_pde_wide),
            "sweep": Case(case_sweep),
        },
        quick={"a": Case(functools.partial(case_a, 256, 3), 90.0)},
    )
