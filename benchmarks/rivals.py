"""Optimizers of jaxgeo and of other libraries on one least-squares problem, run and timed in the same way.

A `Method` advances by calls of one compiled function. `run` times only these calls, the first of which compiles and is
timed separately, and measures the cost between them. Other libraries use their default settings, or those that their
authors recommend.
"""

import functools
import importlib.util
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jax.flatten_util import ravel_pytree

import jaxgeo as jg

# Points of `run` in the results: enough for a figure.
MOST_POINTS = 60


class Method(NamedTuple):
    """The state of an optimizer, the call that advances it, and the parameters in it."""

    init: Callable[[], Any]
    advance: Callable[[Any], Any]
    params: Callable[[Any], Any]
    steps: int = 1


def run(
    method: Method, measure: Callable[[Any], jax.Array], stop: float, limit_s: float, most: float = math.inf
) -> dict[str, Any]:
    """Advance until `measure` of the parameters is at most `stop` or not finite, or steps or seconds are used up.

    The curve has a point for each improvement of the least value, thinned.
    """
    state = method.init()
    start = time.perf_counter()
    jax.block_until_ready(method.advance(state))
    first = time.perf_counter() - start
    curve = [(0, 0.0, float(measure(method.params(state))))]
    count, seconds, value = curve[0]
    while seconds < limit_s and count < most and value > stop and math.isfinite(value):
        start = time.perf_counter()
        state = jax.block_until_ready(method.advance(state))
        seconds, count = seconds + time.perf_counter() - start, count + method.steps
        value = float(measure(method.params(state)))
        if value < curve[-1][2]:
            curve.append((count, seconds, value))
    return {"final": value, "steps": count, "seconds": seconds, "first_call_s": first, "curve": curve}


def thinned(curve: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """At most `MOST_POINTS` of the points, including the last."""
    return curve[:: -(-len(curve) // MOST_POINTS)][:-1] + curve[-1:]


def crossings(curve: list[tuple[int, float, float]], values: Iterable[float]) -> dict[str, Any]:
    """The steps and seconds after which a curve reached each value; None if it never did."""
    found = {}
    for value in values:
        point = next((point for point in curve if point[2] <= value), None)
        found[f"{value:.0e}"] = point and {"steps": point[0], "seconds": point[1]}
    return found


def ours(tx: Any, problem: jg.Problem, params: Any) -> Method:
    """A transformation of `jaxgeo.optim` that differentiates the outputs itself."""

    @eqx.filter_jit
    def advance(tx: Any, problem: jg.Problem, carry: Any) -> Any:
        params, state = carry
        updates, state = tx.update(params, state, params, problem=problem)
        return optax.apply_updates(params, updates), state

    return Method(lambda: (params, tx.init(params)), lambda carry: advance(tx, problem, carry), lambda carry: carry[0])


def gradients(tx: Any, problem: jg.Problem, params: Any, search: bool = False, steps: int = 200) -> Method:
    """An optax transformation of gradients, `steps` of them scanned in one call; `search`: with optax's line search."""

    def body(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        if search:
            value, grads = optax.value_and_grad_from_state(problem.cost)(params, state=state)
            extra = {"value": value, "grad": grads, "value_fn": problem.cost}
        else:
            grads, extra = jax.grad(problem.cost)(params), {}
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def advance(carry: Any) -> Any:
        return jax.lax.scan(body, carry, length=steps)[0]

    return Method(lambda: (params, tx.init(params)), advance, lambda carry: carry[0], steps)


def _data(problem: jg.Problem) -> tuple[Callable[..., jax.Array], jax.Array, jax.Array]:
    """The network for one sample, the inputs and the (N, Q) targets."""
    (block,) = problem.blocks
    return block.apply, block.inputs, problem.loss.targets.reshape(block.num_samples, -1)


def _residual(problem: jg.Problem) -> Callable[..., jax.Array]:
    """x − y, scaled so that half the sum of squares is the L2 cost."""

    def residual(params: Any, *args: Any) -> jax.Array:
        outputs = problem.outputs(params)
        return ((outputs - problem.loss.targets) / len(outputs) ** 0.5).reshape(-1)

    return residual


def _optimistix(solver: Any, function: Any, shape: Any, params: Any, options: dict[str, Any]) -> Method:
    keywords = {"fn": function, "args": None, "options": options, "tags": frozenset()}

    @eqx.filter_jit
    def advance(carry: Any) -> Any:
        params, state = carry
        return solver.step(y=params, state=state, **keywords)[:2]

    def init() -> Any:
        return params, solver.init(y=params, f_struct=shape, aux_struct=None, **keywords)

    return Method(init, advance, lambda carry: carry[0])


def optimistix_least_squares(solver: Any, problem: jg.Problem, params: Any) -> Method:
    """A least-squares solver of optimistix; Jacobian by rows, as there are fewer of them than parameters."""

    def function(params: Any, args: None) -> tuple[jax.Array, None]:
        return _residual(problem)(params), None

    shape = jax.eval_shape(lambda params: function(params, None)[0], params)
    return _optimistix(solver, function, shape, params, {"jac": "bwd"})


def optimistix_minimiser(solver: Any, problem: jg.Problem, params: Any) -> Method:
    """A minimiser of optimistix; one step is one evaluation, possibly of a trial point."""

    def function(params: Any, args: None) -> tuple[jax.Array, None]:
        return problem.cost(params), None

    return _optimistix(solver, function, jax.eval_shape(problem.cost, params), params, {})


def nlls_gram(problem: jg.Problem, params: Any, **settings: Any) -> Method:
    """nlls-gram's Levenberg–Marquardt, by default with its defaults."""
    import nlls_gram

    apply, inputs, targets = _data(problem)
    rows = nlls_gram.vmap_rows(lambda params, x, y: apply(params, x) - y, in_axes=(None, 0, 0))
    solver = nlls_gram.LevenbergMarquardt(
        lambda params: rows(params, inputs, targets).reshape(-1) / len(targets) ** 0.5, **settings
    )
    update = jax.jit(solver.update)
    return Method(lambda: (params, solver.init(params)), lambda carry: update(*carry)[:2], lambda carry: carry[0])


def somax(problem: jg.Problem, params: Any, **settings: Any) -> Method:
    """somax's exact Gauss–Newton for squares, by default with its preset's defaults."""
    import somax

    apply, inputs, targets = _data(problem)

    def predict(params: Any, inputs: jax.Array) -> jax.Array:
        return jax.vmap(functools.partial(apply, params))(inputs)

    method = somax.make("egn_mse", predict_fn=predict, **settings)
    batch = {"x": inputs, "y": targets}
    step = jax.jit(lambda carry: method.step(carry[0], batch, carry[1], jax.random.key(0))[:2])
    return Method(lambda: (params, method.init(params)), step, lambda carry: carry[0])


def jaxopt(problem: jg.Problem, params: Any) -> Method:
    """jaxopt's Levenberg–Marquardt, which takes flat parameters, with its defaults."""
    import jaxopt

    flat, unravel = ravel_pytree(params)
    solver = jaxopt.LevenbergMarquardt(lambda flat: _residual(problem)(unravel(flat)), tol=0.0)
    update = jax.jit(solver.update)
    return Method(
        lambda: (flat, solver.init_state(flat)), lambda carry: tuple(update(*carry)), lambda carry: unravel(carry[0])
    )


def kfac(problem: jg.Problem, params: Any) -> Method:
    """kfac-jax with adaptive learning rate, momentum and damping."""
    import kfac_jax

    apply, *batch = _data(problem)

    def cost(params: Any, batch: Any) -> jax.Array:
        inputs, targets = batch
        outputs = jax.vmap(functools.partial(apply, params))(inputs)
        kfac_jax.register_squared_error_loss(outputs, targets, weight=0.5)
        return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))

    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(cost),
        l2_reg=0.0,
        use_adaptive_learning_rate=True,
        use_adaptive_momentum=True,
        use_adaptive_damping=True,
        initial_damping=1.0,
        num_burnin_steps=0,
    )

    # The optimizer donates its arguments.
    def init() -> Any:
        copied = jax.tree.map(jnp.array, params)
        return copied, optimizer.init(copied, jax.random.key(0), batch)

    def advance(carry: Any) -> Any:
        params, state = jax.tree.map(jnp.array, carry)
        return optimizer.step(params, state, jax.random.key(0), batch=batch)[:2]

    return Method(init, advance, lambda carry: carry[0])


def randngd(problem: jg.Problem, params: Any) -> Method:
    """randngd's natural gradient by conjugate gradients with a Nyström preconditioner, and its line search."""
    import randngd

    apply, inputs, targets = _data(problem)
    joined, width = jnp.concatenate([inputs, targets], axis=1), inputs.shape[1]

    def residual(params: Any, point: jax.Array) -> jax.Array:
        return apply(params, point[:width]) - point[width:]

    metric = randngd.metrics.gauss_newton([(residual, joined)], params)
    preconditioner = randngd.NystromNGD(metric, kind="gaussian", ell_max=500, key=0)
    return optimistix_minimiser(randngd.ngd_solver(preconditioner), problem, params)


def ssbroyden(problem: jg.Problem, params: Any) -> Method:
    """The self-scaled Broyden method of ssbroyden-optimistix."""
    import ssbroyden_optimistix

    return optimistix_minimiser(ssbroyden_optimistix.SSBroyden(rtol=0.0, atol=0.0), problem, params)


PACKAGES = ("nlls-gram", "python-somax", "jaxopt", "kfac-jax", "randngd", "ssbroyden-optimistix")

Make = Callable[[jg.Problem, Any], Method]

OURS: dict[str, Make] = {
    "adapted_levenberg_marquardt": lambda *at: ours(jg.optim.adapted_levenberg_marquardt(), *at),
    "linear_interpolation": lambda *at: ours(jg.optim.linear_interpolation(), *at),
}

# Optax's optimizers: Adam and Muon at three learning rates each.
RATES = (1e-4, 1e-3, 1e-2)
RIVALS: dict[str, Make] = {
    **{f"optax.adam({rate:.0e})": functools.partial(gradients, optax.adam(rate)) for rate in RATES},
    **{f"optax.contrib.muon({rate:.0e})": functools.partial(gradients, optax.contrib.muon(rate)) for rate in RATES},
    "optax.lbfgs()": functools.partial(gradients, optax.lbfgs(), search=True, steps=20),
    "optimistix LevenbergMarquardt": functools.partial(
        optimistix_least_squares, optx.LevenbergMarquardt(rtol=0.0, atol=0.0)
    ),
    "optimistix BFGS": functools.partial(optimistix_minimiser, optx.BFGS(rtol=0.0, atol=0.0)),
    "nlls-gram": nlls_gram,
    "somax egn_mse": somax,
    "jaxopt LevenbergMarquardt": jaxopt,
    "kfac-jax": kfac,
    "randngd NystromNGD": randngd,
    "ssbroyden-optimistix": ssbroyden,
}
MODULES = {
    "nlls-gram": "nlls_gram",
    "somax egn_mse": "somax",
    "jaxopt LevenbergMarquardt": "jaxopt",
    "kfac-jax": "kfac_jax",
    "randngd NystromNGD": "randngd",
    "ssbroyden-optimistix": "ssbroyden_optimistix",
}


def is_installed(name: str) -> bool:
    """Whether the package of a library is installed; core dependencies always are."""
    return name not in MODULES or importlib.util.find_spec(MODULES[name]) is not None
