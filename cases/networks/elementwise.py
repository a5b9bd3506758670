"""Instructions on entries, on axes and on positions: a scope gets a line more, or none where nothing fits."""

from cases.networks.scope import LENGTHS, Scope, Value

FUNCTIONS = (
    "jnp.tanh({})",
    "jnp.sin({})",
    "-{}",
    "jax.nn.relu6({})",
    "jax.nn.silu({})",
    "jax.nn.softplus({})",
    "jnp.where({0} > 0, {0}, 0.1 * {0})",
    "jnp.maximum({}, 0.0)",
    "{0} / (1 + {0} ** 2)",
    "jnp.exp(-{} ** 2)",
    "jnp.abs({})",
    "jax.lax.stop_gradient({})",
    "jnp.real(jnp.exp(jax.lax.complex(-({0} ** 2), {0})))",
)
# Numbers that compare equal and are not, one that leaves a value as it is, one that removes it, others.
LITERALS = ("0.0", "-0.0", "1.0", "-1.0", "0.5", "1", "np.float64(-0.0)", "np.array(2.0)", "jnp.array(-0.0)")
BIASED = ("{} + {}", "{} + {}", "{} + {}", "{1} + {0}", "{} - {}", "{1} - {0}", "{} * {}")
PAIRS = (
    *BIASED,
    "jnp.maximum({}, {})",
    "{} / (1 + {} ** 2)",
    "jnp.where({} > 0, {}, 0.5)",
    "jnp.tanh({}) + jnp.sin({})",
    "{0} + jnp.sin({0}) * {1}",
)


def function(scope: Scope) -> None:
    if value := scope.pick():
        scope.define(scope.choose(FUNCTIONS).format(value.name), value.size)


def literal(scope: Scope) -> None:
    value = scope.pick()
    if value is None:
        return
    number, other, power = scope.choose(LITERALS), scope.choose(LITERALS), scope.choose((1, 2, 3, 0))
    # arctan2(±0, s) is 0 or ±π by the signs of both.
    forms = (
        ("{v} + {c}", value.size + 1),
        ("{v} * {c}", 2 * value.size),
        ("{c} - {v}", value.size + 1),
        ("jnp.maximum({v}, {c})", value.size + 1),
        ("{v} * jnp.arctan2({c}, jnp.cos({v}) - 2.0)", 3.2 * value.size),
        ("{v} * {a}({c}, jnp.cos({v}) - 2.0) + jnp.sin({v}) * {a}({o}, jnp.cos({v}) - 2.0)", 3.2 * value.size),
        ("jnp.copysign({v}, {c}) + {o}", value.size + 1),
        ("{v} ** {i}", max(value.size, 1.0) ** power),
    )
    form, size = scope.choose(forms)
    scope.define(form.format(v=value.name, c=number, o=other, i=power, a="jnp.arctan2"), size)


def spread(value: Value, axes: tuple[int, ...], ndim: int) -> str:
    """The value with the axes of a larger one, of length 1 where it has none."""
    if len(axes) == ndim:
        return value.name
    return value.name + "[" + ", ".join(":" if axis in axes else "None" for axis in range(ndim)) + "]"


def combine(scope: Scope, first: Value | None = None) -> None:
    """Two values entry by entry, one of them spread over axes of the other: a bias or a scale where it is a leaf."""
    first = scope.pick() if first is None else first
    if first is None:
        return
    every = tuple(range(first.ndim))
    axes = scope.choose([every, every, *((axis,) for axis in reversed(every)), every[1:], every[:-1]])
    shape = tuple(first.shape[axis] for axis in axes)
    # A leaf added to data is no bias of a product.
    leaf = scope.choose((True, False) if first.trained else (False, False, False, True))
    second = scope.of_shape(shape, leaf=leaf)
    if second is None:
        return
    other = spread(second, axes, first.ndim) if axes or not first.ndim else second.name
    form = scope.choose(BIASED if leaf else PAIRS)
    size = first.size * max(second.size, 1.0) if "*" in form else first.size + second.size
    scope.define(form.format(first.name, other), size)


def rearrange(scope: Scope) -> None:
    """A view of a value, often of a leaf, or a piece of one."""
    leaves = [leaf for leaf in scope.leaves if leaf.ndim > 0]
    among_leaves = leaves and scope.choose((False, True))
    value = scope.choose(leaves) if among_leaves else scope.pick(lambda value: value.ndim > 0)
    if value is None:
        return
    axis = scope.choose(range(value.ndim))
    length = value.shape[axis]
    start = scope.choose(range(length))
    stop = scope.choose(range(start + 1, length + 1))
    before = ":, " * axis
    halves = ", ".join(str(size) for size in value.shape[:axis] + (1, length) + value.shape[axis + 1 :])
    forms = [
        f"{value.name}.T",
        f"{value.name}[{before}{start}:{stop}]",
        f"{value.name}[{before}{start}]",
        f"{value.name}[{before}::-1]",
        f"{value.name}[{before}::2]",
        f"{value.name}.reshape(-1)",
        f"{value.name}.reshape({halves})",
        f"jnp.moveaxis({value.name}, {axis}, 0)",
        f"jnp.expand_dims({value.name}, {axis})",
        f"jnp.squeeze({value.name})",
        f"jnp.broadcast_to({value.name}, (2, *{value.name}.shape))",
        f"jnp.repeat({value.name}, 2, axis={axis})",
        f"jnp.tile({value.name}, 2)",
        f"jnp.roll({value.name}, 1, axis={axis})",
        f"jnp.pad({value.name}, [(0, 0)] * {axis} + [(1, 0)] + [(0, 0)] * {value.ndim - axis - 1})",
        f"jax.lax.pad({value.name}, 0.5, [(-1, 2, 1)] + [(0, 0, 0)] * {value.ndim - 1})",
        f"jnp.triu({value.name})" if value.ndim > 1 else f"jnp.diag({value.name})",
        f"jnp.diagonal({value.name})" if value.ndim > 1 else f"jnp.outer({value.name}, {value.name})",
        f"jax.lax.optimization_barrier({value.name})",
    ]
    scope.define(scope.choose(forms), value.size)


def split(scope: Scope) -> None:
    """Consecutive pieces along one axis, each a value."""
    value = scope.pick(lambda value: any(length > 1 for length in value.shape))
    if value is None:
        return
    axis = scope.choose([axis for axis, length in enumerate(value.shape) if length > 1])
    at = scope.choose(range(1, value.shape[axis]))
    scope.define(f"jnp.split({value.name}, [{at}], axis={axis})", value.size, count=2)


def join(scope: Scope) -> None:
    """Values one after another along an axis, or along a new one."""
    first = scope.pick(lambda value: value.ndim > 0)
    if first is None:
        return
    axis = scope.choose(range(first.ndim))

    def fits(value: Value) -> bool:
        return value.ndim == first.ndim and all(
            a == b or i == axis for i, (a, b) in enumerate(zip(value.shape, first.shape, strict=True))
        )

    second = scope.pick(fits) or first
    names = f"{first.name}, {second.name}" if scope.choose((True, False)) else f"{second.name}, {first.name}"
    how = scope.choose(("concatenate", "stack") if first.shape == second.shape else ("concatenate",))
    scope.define(f"jnp.{how}([{names}], axis={axis})", max(first.size, second.size))


def reduce(scope: Scope) -> None:
    """Sums, norms and orders along an axis."""
    value = scope.pick(lambda value: value.ndim > 0)
    if value is None:
        return
    name, axis = value.name, scope.choose(range(value.ndim))
    kept = f"axis={axis}, keepdims=True"
    forms = [
        (f"{name}.sum({axis})", value.size * 2),
        (f"{name}.mean({axis})", value.size),
        (f"({name} - {name}.mean({kept})) / jnp.sqrt({name}.var({kept}) + 0.1)", 1.0),
        (f"{name} / jnp.sqrt((({name} ** 2).mean({kept})) + 0.1)", 1.0),
        (f"jax.nn.softmax({name}, axis={axis})", 1.0),
        (f"jax.nn.logsumexp({name}, axis={axis})", value.size + 1),
        (f"{name}.max({axis})", value.size),
        (f"jnp.cumsum({name}, axis={axis})", value.size * 2),
        (f"jnp.cumsum({name}, axis={axis})[::-1]", value.size * 2),
        (f"jnp.sort({name}, axis={axis})", value.size),
        (f"jnp.prod(jnp.tanh({name}), axis={axis})", 1.0),
        (f"jnp.real(jnp.fft.fft({name}, axis={axis}))", value.size * 2),
        (f"jax.lax.associative_scan(lambda a, b: a + jnp.sin(b), {name}, axis={axis})", value.size * 2),
    ]
    scope.define(*scope.choose(forms))


def look_up(scope: Scope) -> None:
    """Rows of a value, in most cases a leaf, by positions that are data or written down."""
    value = scope.of_shape((scope.choose(LENGTHS), scope.choose(LENGTHS)), leaf=True)
    among = [other for other in (value, scope.pick(lambda value: value.ndim > 0)) if other is not None]
    if not among:
        return
    value = scope.choose(among)
    positions = scope.pick(lambda value: value.ndim <= 1, integer=True)
    names = ["np.array([1, 0, -1])", "jnp.array([0, 0])", "np.array([[1], [0]])"]
    where = scope.choose([*([] if positions is None else [positions.name]), *names])
    one = "0" if positions is None else positions.name if positions.ndim == 0 else f"{positions.name}[0]"
    name, axis = value.name, scope.choose(range(value.ndim))
    forms = [
        f"{name}[{where} % {value.shape[0]}]",
        f"jnp.take({name}, {where}, axis={axis}, mode='clip')",
        f"jnp.take({name}, {where}, axis={axis}, mode='wrap')",
        f"{name}.at[{where}].get(mode='fill', fill_value=0.5)",
        f"{name}.at[{where}].get(mode='promise_in_bounds')" if where.startswith("jnp.array") else f"{name}[{one}]",
        f"jax.lax.dynamic_index_in_dim({name}, {one}, {axis})",
        f"jax.lax.dynamic_index_in_dim({name}, {one}, {axis}, keepdims=False)",
        f"jax.lax.dynamic_slice_in_dim({name}, {one}, {value.shape[axis]}, {axis})",
        f"jax.lax.dynamic_slice_in_dim({name}, {one}, 1, {axis})",
        f"jax.lax.dynamic_update_slice_in_dim({name}, 0.5 * {name}[:1], {one}, 0)",
        f"{name}.at[{one}].add({name}[0])",
        f"{name}.at[:1].set(jnp.sin({name}[:1]))",
        f"jnp.tensordot(jax.nn.one_hot({where} % {value.shape[axis]}, {value.shape[axis]}), {name}, (-1, {axis}))",
        f"jnp.take_along_axis({name}, jnp.argsort({name}, axis={axis}), axis={axis})",
    ]
    scope.define(scope.choose(forms), value.size)
