"""Instructions that hold a function of their own: loops, branches, batches, derivatives, calls."""

from collections.abc import Callable, Sequence

import numpy as np

from cases.networks.scope import Scope, Value, indented

MOST_DEPTH = 2
# Adds this many instructions to a scope.
Write = Callable[[Scope, int], None]


def _write(scope: Scope, instructions: Write, arguments: list[Value], *, closed: bool = False) -> Scope:
    inner = scope.inner(arguments, closed=closed)
    instructions(inner, scope.choose((1, 2, 2, 3)))
    return inner


def _results(scope: Scope) -> list[Value]:
    """What a function may give back, the newest more than once."""
    own = [value for value in reversed(scope.values) if not value.integer]
    own = [value for value in own if value.trained] or own
    return [own[0], own[0], *own[:4]]


def _fit(scope: Scope, shape: tuple[int, ...]) -> tuple[str, bool]:
    """An expression of this shape from what the scope has, and whether a leaf reaches it."""
    own = _results(scope)
    exact = [value for value in own if value.shape == shape]
    value = scope.choose([*exact, *own])
    if value.shape == shape:
        return value.name, value.trained
    return (f"jnp.sum({value.name})" if shape == () else f"jnp.resize({value.name}, {shape})"), value.trained


def _function(name: str, arguments: str, scope: Scope, result: str) -> str:
    return "\n".join([f"def {name}({arguments}):", *indented(scope.pruned(result)), f"    return {result}"])


def _arguments(scope: Scope, values: Sequence[Value], shapes: Sequence[tuple[int, ...]] | None = None) -> list[Value]:
    """What stands for these values inside a function, of other shapes where these are given."""
    shapes = [value.shape for value in values] if shapes is None else shapes
    return [Value(scope.name(), shape, value.size, value.trained) for value, shape in zip(values, shapes, strict=True)]


def _comma(names: list[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")


def scan(scope: Scope, write: Write) -> None:
    """A loop over leading axes, or a fixed number of times, with one or two carries."""
    picked = [scope.pick() for _ in range(scope.choose((1, 1, 2)))]
    carries = [value for value in picked if value is not None]
    length = scope.choose((2, 3, 1))
    if len(carries) < len(picked):
        return
    scanned = scope.candidates(lambda value: value.ndim > 0 and value.shape[0] == length)
    over = [scope.choose(scanned) for _ in range(scope.choose((1, 2, 0)))] if scanned else []
    if carries[0].ndim and not scope.closed and scope.choose((False, True)):
        # The weights of layers, one after another.
        over.append(scope.of_shape((length, carries[0].shape[0], carries[0].shape[0]), leaf=True))
    held = _arguments(scope, carries)
    slices = _arguments(scope, over, [value.shape[1:] for value in over])
    inner = _write(scope, write, [*held, *slices])
    squash = scope.choose(("jnp.tanh({})", "jnp.sin({})", "0.5 * {}"))
    found = [_fit(inner, value.shape) for value in held]
    results = [squash.format(expression) for expression, _ in found]
    stacked = scope.choose([None, *_results(inner)])
    trained = any(value.trained for value in carries) or any(reached for _, reached in found)
    name = scope.name("f")
    lines = [f"{_comma([value.name for value in held])} = carry"]
    lines += [f"{_comma([value.name for value in slices])} = slices"] if slices else []
    inner.lines = [*lines, *inner.lines]
    body = _function(name, "carry, slices", inner, f"({_comma(results)}), {stacked and stacked.name}")
    operands = f"({_comma([value.name for value in over])})" if over else "None"
    options = scope.choose((f"length={length}", f"length={length}, reverse=True", f"length={length}, unroll=2"))
    start = f"({_comma([carry.name for carry in carries])})"
    call = f"jax.lax.scan({name}, {start}, {operands}, {options})"
    if stacked is None:
        first = f"{call}[0]" + ("[0]" if len(held) == 1 else "")
        scope.define(first, 1.0, before=[body], count=len(held), trained=trained)
    else:
        tail = name + "_all"
        both = f"(*{tail}[0], {tail}[1])"
        before = [body, f"{tail} = {call}"]
        trained = trained or stacked.trained
        scope.define(both, stacked.size, before=before, count=len(held) + 1, trained=trained)


def repeat(scope: Scope, write: Write) -> None:
    """A loop that knows its number."""
    carry = scope.pick()
    if carry is None:
        return
    index = Value(scope.name("i"), (), integer=True)
    held = _arguments(scope, [carry])
    inner = _write(scope, write, [index, *held])
    name = scope.name("f")
    result, reached = _fit(inner, carry.shape)
    body = _function(name, f"{index.name}, {held[0].name}", inner, f"jnp.tanh({result})")
    call = f"jax.lax.fori_loop(0, {scope.choose((2, 3, 1))}, {name}, {carry.name})"
    scope.define(call, 1.0, before=[body], trained=reached)


def branch(scope: Scope, write: Write) -> None:
    """One of two functions, chosen by data or by a value that is computed."""
    operand = scope.pick()
    deciding = scope.pick()
    if operand is None or deciding is None:
        return
    counts = scope.candidates(lambda value: True, integer=True)
    predicate = f"jnp.sum({scope.choose([deciding, *counts]).name}) > 0"
    before, names, trained = [], [], False
    for _ in range(2):
        (argument,) = _arguments(scope, [operand])
        inner = _write(scope, write, [argument])
        names.append(scope.name("f"))
        result, reached = _fit(inner, operand.shape)
        trained = trained or reached
        before.append(_function(names[-1], argument.name, inner, result))
    call = scope.choose(("jax.lax.cond({p}, {f}, {g}, {x})", "jax.lax.switch(jnp.where({p}, 0, 1), [{f}, {g}], {x})"))
    expression = call.format(p=predicate, f=names[0], g=names[1], x=operand.name)
    scope.define(expression, 6.0, before=before, trained=trained)


def batch(scope: Scope, write: Write) -> None:
    """The same function for every entry of one or two values along an axis."""
    first = scope.pick(lambda value: value.ndim > 0)
    if first is None:
        return
    axis = scope.choose(range(first.ndim))
    second = scope.choose([None, *scope.candidates(lambda value: True)])
    values, axes = [first], [axis]
    if second is not None:
        values.append(second)
        axes.append(scope.choose([None, *(i for i, size in enumerate(second.shape) if size == first.shape[axis])]))
    shapes = [
        value.shape if i is None else value.shape[:i] + value.shape[i + 1 :]
        for value, i in zip(values, axes, strict=True)
    ]
    arguments = _arguments(scope, values, shapes)
    inner = _write(scope, write, arguments)
    result = scope.choose(_results(inner))
    name = scope.name("f")
    body = _function(name, ", ".join(argument.name for argument in arguments), inner, result.name)
    out = scope.choose((0, -1))
    call = f"jax.vmap({name}, in_axes={tuple(axes)}, out_axes={out})({', '.join(value.name for value in values)})"
    scope.define(call, result.size, before=[body], trained=result.trained)


def call(scope: Scope, write: Write) -> None:
    """A function that is compiled, computed again for the gradient, or has a derivative rule of its own."""
    kind = scope.choose(("jax.jit", "jax.checkpoint", "jax.custom_jvp", "jax.jit"))
    picked = [scope.pick() for _ in range(scope.choose((1, 2)))]
    values = [value for value in picked if value is not None]
    if len(values) < len(picked):
        return
    arguments = _arguments(scope, values)
    inner = _write(scope, write, arguments, closed=kind == "jax.custom_jvp")
    results = [scope.choose(_results(inner)) for _ in range(scope.choose((1, 2)))]
    name = scope.name("f")
    expression = ", ".join(value.name for value in results)
    before = [_function(name, ", ".join(argument.name for argument in arguments), inner, expression)]
    if kind == "jax.custom_jvp":
        rule = f"{name}.defjvp(lambda primals, tangents: jax.jvp({name}.fun, primals, tangents))"
        before += [f"{name} = jax.custom_jvp({name})", rule]
        kind = ""
    names = ", ".join(value.name for value in values)
    called = f"{kind}({name})({names})" if kind else f"{name}({names})"
    trained = any(value.trained for value in results)
    scope.define(called, max(value.size for value in results), before=before, count=len(results), trained=trained)


def differentiate(scope: Scope, write: Write) -> None:
    """Derivatives of a function within the network, as in the residual of a differential equation."""
    value = scope.pick()
    if value is None:
        return
    (argument,) = _arguments(scope, [value])
    inner = _write(scope, write, [argument])
    name = scope.name("f")
    result = scope.choose(_results(inner))
    direction = scope.choose(
        [f"jnp.ones_like({value.name})", *(v.name for v in scope.candidates(lambda v: v.shape == value.shape))]
    )
    # Else the result may not depend on what it is differentiated by.
    returned = scope.choose((result.name, f"{result.name} * jnp.sum(jnp.cos({argument.name}))"))
    function = _function(name, argument.name, inner, returned)
    energy = _function(name, argument.name, inner, f"jnp.sum(jnp.sin({returned}))")
    pair = f"({value.name},), ({direction},)"
    small = np.prod(value.shape) * np.prod(result.shape) <= 36 and value.ndim + result.ndim <= 3
    forms = [
        ("jax.jvp({f}, {pair})", 2, function),
        ("jax.grad({f})({x})", 1, energy),
        ("jax.jvp(jax.grad({f}), {pair})[1]", 1, energy),
        ("jax.jvp(lambda x: jax.jvp({f}, (x,), ({d},))[1], {pair})", 2, function),
        ("jax.grad(lambda x: jnp.sum(jax.grad({f})(x) ** 2))({x})", 1, energy),
        ("jax.linearize({f}, {x})[1]({d})", 1, function),
        ("jax.vjp({f}, {x})[1](jnp.ones_like({f}({x})))[0]", 1, function),
        *([("jax.jacrev({f})({x})", 1, function), ("jax.jacfwd({f})({x})", 1, function)] if small else []),
        *([("jnp.trace(jax.hessian({f})({x}))", 1, energy)] if value.ndim == 1 else []),
    ]
    form, count, body = scope.choose(forms)
    scope.define(
        form.format(f=name, pair=pair, d=direction, x=value.name),
        6.0,
        before=[body],
        count=count,
        trained=result.trained,
    )
