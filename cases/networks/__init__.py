"""Random networks: programs in which everything may be used anywhere, written as code that can be pasted.

A program is made by a sequence of choices. `numbered(17)` draws them from a generator with this seed, `programs()` is
the same as a strategy for hypothesis, which makes the choices that fail as few and as simple as it can.
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgeo as jg
from cases.networks import bodies, elementwise, products
from cases.networks.scope import Choose, Pool, Scope, Value, indented
from jaxgeo.linalg.gram.held import held_factors
from jaxgeo.linalg.gram.layout import make_layout

SIMPLE: Sequence[Callable[[Scope], None]] = (
    *[products.multiply] * 6,
    *[elementwise.combine] * 6,
    *[products.affine] * 4,
    *[elementwise.function] * 4,
    *[elementwise.rearrange] * 4,
    *[elementwise.join] * 2,
    *[elementwise.reduce] * 2,
    *[elementwise.literal] * 2,
    *[elementwise.look_up] * 2,
    *[products.convolve] * 2,
    products.attend,
    elementwise.split,
    products.solve,
)
NESTED = (
    *[bodies.scan] * 3,
    *[bodies.differentiate] * 3,
    *[bodies.call] * 2,
    bodies.batch,
    bodies.branch,
    bodies.repeat,
)
MOST_OUTPUTS = 3


class Program:
    """Code that defines `problem` and `params`; it prints as this code."""

    def __init__(self, code: str):
        self.code = code

    def __repr__(self) -> str:
        return f"\n{self.code}"

    def run(self) -> tuple[jg.Problem, dict[str, jax.Array]]:
        namespace: dict[str, Any] = {}
        exec(self.code, namespace)
        return namespace["problem"], namespace["params"]


class Comparison(NamedTuple):
    """G against the dense D Dᵀ, and a product with Dᵀ by factors against that with the dense Dᵀ.

    - `matrix`, `diagonal`: the largest deviations, relative to the largest entry of D Dᵀ (or 1e-12, if that is less).
    - `product`: the largest deviation of Dᵀv, relative to the largest entry of |D|ᵀ|v| (or 1e-6, if that is less).
    - `scale`: that entry.
    - `routes`: of each leaf that the outputs depend on, how its part of G is computed.
    """

    matrix: float
    diagonal: float
    product: float
    scale: float
    routes: dict[str, str]

    @property
    def error(self) -> float:
        """The largest deviation; NaN if any is."""
        return float(np.max([self.matrix, self.diagonal, self.product]))


def reverse_mode_is_right(problem: jg.Problem, params: dict[str, jax.Array]) -> bool:
    """Whether JAX's derivatives of each sample agree in both modes; with JAX 0.10 those of some convolutions do not."""

    def derivatives(mode: Callable) -> list[jax.Array]:
        return jax.tree.leaves([jax.vmap(mode(each.apply), (None, 0))(params, each.inputs) for each in problem.blocks])

    return all(map(np.allclose, derivatives(jax.jacfwd), derivatives(jax.jacrev)))


def compare(problem: jg.Problem, params: dict[str, jax.Array], *, diagonal: bool = True) -> Comparison:
    """Compare G, its diagonal and Dᵀv with a D by forward mode that shares no code with `jaxgeo.linalg`."""
    flat, unravel = ravel_pytree(params)
    routes: dict[str, str] = {}

    def outputs(flat: jax.Array) -> jax.Array:
        return jnp.ravel(problem.outputs(unravel(flat)))

    @jax.jit
    def compute(flat: jax.Array) -> tuple[jax.Array, ...]:
        gram = problem.gram(unravel(flat))
        for leaf in gram.plan().leaves:
            routes.update(dict.fromkeys(re.findall(r"[a-z]\w*", leaf.name), leaf.route))
        # A column at a time: with all together in `jax.vmap`, jaxlib 0.10 aborts at convolutions such as network 126's.
        columns = jax.lax.map(lambda column: jax.jvp(outputs, (flat,), (column,))[1], jnp.eye(flat.size))
        matrix = gram.as_matrix()
        # The diagonal that is computed without the rest takes a third of the time of a comparison.
        squares = jnp.ravel(gram.diagonal()) if diagonal else jnp.diag(matrix)
        velocity = jnp.cos(jnp.arange(len(matrix), dtype=matrix.dtype))
        factors = held_factors(gram.jacobian, make_layout(gram.jacobian))
        pulled = ravel_pytree(factors.pull(velocity))[0]
        return matrix, squares, pulled, velocity, columns.T

    matrix, squares, pulled, velocity, dense = (np.asarray(array) for array in compute(flat))
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])
    columns = np.split(np.abs(dense).max(0), ends[:-1])
    reached = {name for name, column in zip(sorted(params), columns, strict=True) if column.any()}
    routes = {name: route for name, route in routes.items() if name in reached}
    expected = dense @ dense.T
    scale = float(np.abs(expected).max())
    # Where D is 0 but for round-off, G has to be so too.
    unit = max(scale, 1e-12)
    largest_product = max(float((np.abs(dense.T) @ np.abs(velocity)).max()), 1e-6)
    return Comparison(
        float(np.abs(matrix - expected).max() / unit),
        float(np.abs(squares - np.diag(expected)).max() / unit),
        float(np.abs(pulled - dense.T @ velocity).max() / largest_product),
        scale,
        routes,
    )


def write(scope: Scope, count: int) -> None:
    """Add about this many instructions."""
    for _ in range(count):
        nested = scope.depth < bodies.MOST_DEPTH and scope.choose((False, False, False, True))
        if nested:
            scope.choose(NESTED)(scope, write)
        else:
            scope.choose(SIMPLE)(scope)


def _outputs(scope: Scope) -> str:
    """A few numbers of a few values, most of them such as nothing else has used."""
    if not any(value.trained for value in scope.values):
        products.multiply(scope, leaf=True)
    known = [value for value in reversed(scope.values) if value.trained] or scope.leaves or scope.values[1:]
    terms: list[str] = []
    for _ in range(scope.choose((1, 2, 3))):
        loose = [value for value in scope.unused() if value.trained and value.name not in " ".join(terms)]
        value = scope.choose((loose or known) if scope.choose((True, False)) else known)
        axis = scope.choose(range(max(value.ndim, 1)))
        others = tuple(i for i in range(value.ndim) if i != axis)
        if np.prod(value.shape) <= MOST_OUTPUTS:
            terms.append(f"jnp.ravel({value.name})")
        else:
            forms = (f"{{}}.sum({others})", f"jnp.sin({{}}).sum({others})", f"jnp.ravel({{}})[:{MOST_OUTPUTS}]")
            terms.append(scope.choose(forms if value.ndim > 1 else ("{}",)).format(value.name))
    return terms[0] if len(terms) == 1 else f"jnp.concatenate([{', '.join(terms)}])"


def make_program(choose: Choose) -> Program:
    pool = Pool()
    num_blocks = choose((1, 1, 1, 1, 2))
    together = num_blocks == 1 and choose((False,) * 9 + (True,))
    functions, inputs = [], []
    for _ in range(num_blocks):
        num_samples = choose((2, 3, 1))
        shape = choose(((3,), (2, 3), (3, 3), (2,), (3, 2), (1, 3), (2, 3, 2)))
        lead = (num_samples,) if together else ()
        x, t = Value("x", (*lead, *shape[: 3 - len(lead)])), Value("t", (*lead, 2)[:2], integer=True)
        scope = Scope(choose, pool, [t, x])
        write(scope, choose(range(1, 11)))
        outputs = _outputs(scope)
        if together:
            outputs = f"jnp.resize({outputs}, ({num_samples}, 2))"
        functions.append((scope.pruned(outputs), outputs))
        shapes = tuple(((num_samples, *value.shape[len(lead) :])) for value in (x, t))
        inputs.append(f"(rng.normal(size={shapes[0]}), rng.integers(-1, 4, size={shapes[1]}))")
    return Program(_code(functions, inputs, pool, together))


def _used(pool: Pool, lines: Sequence[str]) -> list[Value]:
    used = set(re.findall(r"\bw\d+\b", "\n".join(lines)))
    return [leaf for leaf in pool.leaves if leaf.name in used]


def _code(functions: Sequence[tuple[list[str], str]], inputs: Sequence[str], pool: Pool, together: bool) -> str:
    lines = ["import jax", "import jax.numpy as jnp", "import numpy as np", "", "import jaxgeo as jg", ""]
    for number, (body, outputs) in enumerate(functions):
        taken = [f'{leaf.name} = params["{leaf.name}"]' for leaf in _used(pool, [*body, outputs])]
        lines += ["", f"def network{number}(params, sample):"]
        lines += indented(["x, t = sample", *taken, *body, f"return {outputs}"])
    # At least one leaf, though perhaps nothing depends on it.
    leaves = _used(pool, lines) or [pool.leaf((1,))]
    sizes = ", ".join(f'"{leaf.name}": {leaf.shape}' for leaf in leaves)
    lines += ["", "", "rng = np.random.default_rng(0)", f"shapes = {{{sizes}}}"]
    lines += ["params = {name: jnp.array(0.7 * rng.normal(size=shape)) for name, shape in shapes.items()}"]
    if len(functions) == 1:
        lines += [f"inputs = jax.tree.map(jnp.array, {inputs[0]})"]
        outputs = "network0(params, inputs)" if together else "jax.vmap(network0, (None, 0))(params, inputs)"
        lines += [f"outputs = jax.eval_shape(lambda: {outputs})"]
        options = ", per_sample=False" if together else ""
        lines += [f"problem = jg.Problem(network0, inputs, jg.L2(jnp.zeros(outputs.shape)){options})"]
    else:
        blocks = [f"(network{i}, jax.tree.map(jnp.array, {given}), {i + 1}.0)" for i, given in enumerate(inputs)]
        lines += [f"problem = jg.residual_problem([{', '.join(blocks)}])"]
    return "\n".join(lines) + "\n"


def numbered(number: int) -> Program:
    """The program with this number, the same on every machine."""
    source = random.Random(number)
    return make_program(lambda options: options[source.randrange(len(options))])


@st.composite
def programs(draw: Callable[[Any], Any]) -> Program:
    return make_program(lambda options: draw(st.sampled_from(options)))
