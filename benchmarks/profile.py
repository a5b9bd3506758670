"""What an update of each route takes, beside the least that its flops and bytes take on this machine.

The floor is the longer of two times: the flops that the algorithm needs, at the speed of a product of large matrices;
and the bytes of the arrays that it has to write and read, at the speed of a product of a large matrix and a vector.
Both speeds are measured in the same process. A forward pass, D, DDᵀ and each decomposition are measured alone beside
the update, so that the table says where the time goes.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

import jaxgeo as jg
from benchmarks.harness import Case, Result, environment, measure, run_cases
from benchmarks.lift_speed import network
from benchmarks.scaling import rates
from jaxgeo.linalg.low_rank import leading_singular_values
from jaxgeo.linalg.triangular import upper_cholesky
from jaxgeo.optim.damping import GainRatioDamping
from jaxgeo.optim.rank_cutoff import RankCutoff

FLOAT32, FLOAT64 = jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)
# An explanation is due above this.
MOST_RATIO = 3.0


class Work(NamedTuple):
    """Flops in each dtype, and bytes."""

    float32: float = 0.0
    float64: float = 0.0
    bytes: float = 0.0

    def seconds(self, speeds: dict[str, dict[str, float]]) -> float:
        flops = self.float32 / speeds["float32"]["gflops"] + self.float64 / speeds["float64"]["gflops"]
        return max(flops, self.bytes / speeds["float64"]["gbytes"]) / 1e9


class Route(NamedTuple):
    """An update, what it must do, and the parts of it that are measured alone; `why` it takes longer, if it does."""

    sizes: Result
    update: Callable[[], Any]
    work: Work
    parts: dict[str, Callable[[], Any]]
    why: str


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    ready = eqx.filter_jit(function).lower(*arguments).compile()
    return lambda: ready(*arguments)


def stepped(problem: jg.Problem, params: Any, tx: Any) -> Callable[[], Any]:
    def step(params: Any, state: Any, problem: jg.Problem) -> Any:
        return tx.update(params, state, params, problem=problem)

    return compiled(step, params, tx.init(params), problem)


def sizes_of(problem: jg.Problem, params: Any) -> tuple[Result, float]:
    """QN, K and dtype; and the flops of a forward pass, a product with each kernel for each sample."""
    leaf = jax.tree.leaves(params)[0]
    sizes = {"QN": problem.num_rows(params), "K": problem.num_params(params), "dtype": str(leaf.dtype)}
    return sizes, 2.0 * problem.num_samples * sizes["K"]


def forward(problem: jg.Problem, params: Any) -> Callable[[], Any]:
    return compiled(lambda problem, params: problem.outputs(params), problem, params)


def dense(problem: jg.Problem, params: Any) -> Callable[[], Any]:
    return compiled(lambda problem, params: problem.jacobian(params).as_matrix(), problem, params)


def few() -> Route:
    """K < QN: D, its QR and the singular values of R, which gives steps of any length; one trial."""
    problem, params = network([8, 16, 16, 1], 1024, FLOAT64)
    sizes, once = sizes_of(problem, params)
    rows, columns = sizes["QN"], sizes["K"]
    matrix = dense(problem, params)()
    triangle = jnp.linalg.qr(matrix)[1]
    parts = {
        "forward pass": forward(problem, params),
        "D": dense(problem, params),
        "QR": compiled(jnp.linalg.qr, matrix),
        "SVD of R": compiled(lambda triangle: jnp.linalg.svd(triangle, full_matrices=False), triangle),
    }
    # Golub and Van Loan, Matrix computations, 5.2 and 8.6: Q and R; all of an SVD.
    flops = 3 * once + 4 * rows * columns**2 - 4 / 3 * columns**3 + 21 * columns**3
    why = (
        "the SVD: half of its flops are products of a matrix and a vector, which memory bounds, and LAPACK computes it "
        "on one thread at this size"
    )
    tx = jg.optim.adapted_levenberg_marquardt()
    work = Work(float64=flops, bytes=8.0 * rows * columns * 3)
    return Route(sizes, stepped(problem, params, tx), work, parts, why)


def lifted(problem: jg.Problem, params: Any) -> tuple[Result, float, Work, dict[str, Callable[[], Any]]]:
    """Sizes, a forward pass, and what a lift through DDᵀ takes, whole and by parts."""
    sizes, once = sizes_of(problem, params)
    rows, outputs = sizes["QN"], sizes["QN"] / problem.num_samples
    gram_flops = float(sum(leaf.flops for leaf in problem.gram(params).plan().leaves))

    def formed(problem: jg.Problem, params: Any) -> jax.Array:
        return problem.gram(params).as_matrix(FLOAT64)

    gram = formed(problem, params)
    gram = gram + 1e-3 * jnp.trace(gram) / rows * jnp.eye(rows, dtype=FLOAT64)
    parts = {
        "forward pass": forward(problem, params),
        "DDᵀ": compiled(formed, problem, params),
        "Cholesky": compiled(upper_cholesky, gram),
    }
    # A forward pass, the factors of D by as many backward passes as a sample has outputs, Dᵀψ by the factors, and D
    # times that. DDᵀ is written, scaled, factorised and read for two solves.
    network = once * (1 + outputs) + 2 * once
    work = Work(float32=network, float64=gram_flops + rows**3 / 3 + once, bytes=8.0 * rows**2 * 6)
    return sizes, once, work, parts


def many() -> Route:
    """K ≥ QN: a lift, and one trial."""
    problem, params = network([64, 256, 256, 256, 1], 512)
    sizes, once, work, parts = lifted(problem, params)
    why = (
        "corrections for the bend of the network, up to eight forward passes with a lift each; DDᵀ in float64 from "
        "small blocks, and Cholesky, do not reach the speed of large products"
    )
    tx = jg.optim.adapted_levenberg_marquardt()
    straight = jg.optim.adapted_levenberg_marquardt(damping=GainRatioDamping(corrections=0))
    parts["update without corrections"] = stepped(problem, params, straight)
    return Route(sizes, stepped(problem, params, tx), work._replace(float32=work.float32 + once), parts, why)


def flow() -> Route:
    """A velocity of `AdaptedFlow`: an undamped lift."""
    problem, params = network([64, 256, 256, 256, 1], 512)
    sizes, _, work, parts = lifted(problem, params)
    velocity = compiled(lambda problem, params: jg.AdaptedFlow()(0.0, params, problem), problem, params)
    why = (
        "without damping the conditioning is measured by ten solves with U, and the lift is refined by products with D "
        "and Dᵀ until it stops gaining"
    )
    return Route(sizes, velocity, work, parts, why)


def momentum() -> Route:
    """A strongly damped update by two steps of conjugate gradients, without DDᵀ."""
    problem, params = network([64, 256, 256, 256, 10], 256)
    sizes, once = sizes_of(problem, params)
    # A forward pass and a trial; D three times and Dᵀ three times, with two products with each kernel.
    work = Work(float32=once * (2 + 2 * 6), bytes=4.0 * sizes["K"] * 12)
    tx = jg.optim.adapted_momentum(damping=50.0)
    why = "products of 256 samples with each kernel do not reach the speed of large products"
    return Route(sizes, stepped(problem, params, tx), work, {"forward pass": forward(problem, params)}, why)


def low_rank() -> Route:
    """Many parameters, fewer than outputs: D, and its leading singular values at the first rung of the ladder."""
    problem, params = network([8, 40, 40, 1], 2560, FLOAT64)
    sizes, once = sizes_of(problem, params)
    rows, columns = sizes["QN"], sizes["K"]
    counts = RankCutoff().ladder(rows, columns)
    rank = counts[0]
    matrix = dense(problem, params)()

    def leading(matrix: jax.Array, choice: jax.Array) -> Any:
        return leading_singular_values(matrix, counts, choice, jax.random.key(0))

    parts = {
        "forward pass": forward(problem, params),
        "D": dense(problem, params),
        "leading values": compiled(leading, matrix, jnp.zeros((), jnp.int32)),
    }
    # D times random columns, Qᵀ times D, two QR decompositions and a small SVD; the corrections are forward passes.
    flops = 3 * once + 4.0 * rows * columns * rank + 4.0 * (rows + columns) * rank**2 + 21.0 * rank**3
    why = (
        "up to 20 corrections in each try, of a forward pass and products with D each, by which steps go several times "
        "as far; D is formed by a backward pass for each sample; QR of narrow matrices and a small SVD do not reach "
        "the speed of large products"
    )
    tx = jg.optim.adapted_levenberg_marquardt()
    work = Work(float64=flops, bytes=8.0 * rows * columns * 3)
    return Route(sizes | {"rank": rank}, stepped(problem, params, tx), work, parts, why)


ROUTES = {
    "few parameters": few,
    "many parameters": many,
    "flow stage": flow,
    "momentum": momentum,
    "low rank": low_rank,
}


def profiled(repeats: int = 15) -> Iterator[Result]:
    """The least times of interleaved calls, and the highest speeds, measured again before each route."""
    jax.config.update("jax_enable_x64", True)
    speeds = {str(dtype): {"gflops": 0.0, "gbytes": 0.0} for dtype in (FLOAT32, FLOAT64)}
    found: Result = {"environment": environment(), "speeds": speeds, "rows": {}}
    routes: dict[str, tuple[Route, dict[str, float]]] = {}
    for name, make in ROUTES.items():
        for dtype, speed in speeds.items():
            speed |= {key: max(speed[key], rate) for key, rate in rates(jnp.dtype(dtype)).items()}
        route = make()
        rows = measure({"update": route.update, **route.parts}, repeats)
        routes[name] = route, {part: row["least_ms"] for part, row in rows.items()}
        found["rows"] = {name: _row(*each, speeds) for name, each in routes.items()}
        yield found


def _row(route: Route, times: dict[str, float], speeds: dict[str, dict[str, float]]) -> Result:
    floor_ms = 1e3 * route.work.seconds(speeds)
    ratio = times["update"] / floor_ms
    return route.sizes | {
        "work": route.work._asdict(),
        "floor_ms": floor_ms,
        "update_ms": times["update"],
        "ratio": ratio,
        "parts_ms": {part: times[part] for part in route.parts},
        "why": route.why if ratio > MOST_RATIO else "",
    }


if __name__ == "__main__":
    run_cases("profile", {"updates": Case(profiled)}, {"updates": Case(lambda: profiled(3))})
