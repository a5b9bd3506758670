"""Instructions that multiply values along axes: einsums, products of matrices, convolutions, attention."""

from cases.networks.elementwise import combine
from cases.networks.scope import LENGTHS, Scope, Value


def _free(letters: str, value: Value, taken: dict[int, str]) -> list[str]:
    fresh = iter(letters)
    return [taken[axis] if axis in taken else next(fresh) for axis in range(value.ndim)]


def _weight(scope: Scope, value: Value) -> Value | None:
    """A leaf with an axis as long as one of this value's, a new one perhaps."""
    length = scope.choose(value.shape)
    width = scope.choose(LENGTHS)
    known = [leaf for leaf in scope.leaves if length in leaf.shape]
    chosen = scope.choose(known) if known and scope.choose((False, True)) else None
    if chosen is None and not scope.closed:
        shape = scope.choose(((width, length), (width, length), (length, width), (length,), (2, width, length)))
        chosen = scope.pool.leaf(shape)
    return chosen


def multiply(scope: Scope, *, leaf: bool = False) -> None:
    """A product of two values, in most cases a leaf and another."""
    second = scope.pick(lambda value: value.ndim > 0)
    if second is None:
        return
    leaf = leaf or scope.choose((True, True, False))
    first = _weight(scope, second) if leaf else scope.pick(lambda value: value.ndim > 0)
    if first is None:
        return
    pairs = [
        (i, j) for i in reversed(range(first.ndim)) for j in range(second.ndim) if first.shape[i] == second.shape[j]
    ]
    if not pairs:
        return
    # The first match is summed over; of the others each is summed over, kept as a batch, or left free.
    summed, batch = [scope.choose(pairs)], []
    for pair in pairs:
        if all(pair[side] != other[side] for other in (*summed, *batch) for side in (0, 1)):
            match scope.choose(("free", "sum", "batch")):
                case "sum":
                    summed.append(pair)
                case "batch":
                    batch.append(pair)
    if first.ndim + second.ndim - 2 * len(summed) - len(batch) > 3:
        return
    size = first.size * second.size
    for i, _ in summed:
        size *= first.shape[i] ** 0.5
    if first.ndim <= 2 and second.ndim <= 2 and len(summed) == 1 and not batch and scope.choose((True, False)):
        ((i, j),) = summed
        left = first.name if i == first.ndim - 1 else f"{first.name}.T"
        right = second.name if j == 0 else f"{second.name}.T"
        if scope.choose((False, True)) and second.ndim == 2:
            turned = f"{first.name}.T" if i == 1 else first.name
            scope.define(f"{second.name if j == 1 else second.name + '.T'} @ {turned}", size)
        else:
            scope.define(f"{left} @ {right}", size)
        return
    if scope.choose((True, False)):
        numbers = tuple(
            tuple(list(side) for side in zip(*chosen, strict=True)) or ([], []) for chosen in (summed, batch)
        )
        operands = f"{first.name}, {second.name}"
        if scope.choose((False, True)):
            numbers = tuple(side[::-1] for side in numbers)
            operands = f"{second.name}, {first.name}"
        scope.define(f"jax.lax.dot_general({operands}, {numbers})", size)
        return
    taken = dict(zip([*summed, *batch], "ijkl", strict=False))
    one = _free("abc", first, {i: letter for (i, _), letter in taken.items()})
    two = _free("xyz", second, {j: letter for (_, j), letter in taken.items()})
    result = [letter for letter in [*one, *(letter for letter in two if letter not in one)]]
    result = [letter for letter in result if letter not in [taken[pair] for pair in summed]]
    if scope.choose((False, True)):
        result.reverse()
    terms = [("".join(one), first.name), ("".join(two), second.name)]
    if scope.choose((False, True)):
        terms.reverse()
    spec = ",".join(letters for letters, _ in terms) + "->" + "".join(result)
    scope.define(f"jnp.einsum({spec!r}, {', '.join(name for _, name in terms)})", size)


def affine(scope: Scope) -> None:
    """A product with a leaf, and what a bias or scale, or several, make of it; all are there for what follows."""
    known = len(scope.values)
    scope.choose((multiply, multiply, convolve))(scope)
    if len(scope.values) > known:
        product = scope.values[-1]
        for _ in range(scope.choose((1, 2))):
            combine(scope, product)


def convolve(scope: Scope) -> None:
    """A convolution in one or two dimensions, its images, kernel and result in any order of axes."""
    spatial = scope.choose(("H", "H", "HW"))
    ndim = 2 + len(spatial)
    images = scope.pick(lambda value: value.ndim in (ndim - 1, ndim) and value.ndim > 1)
    if images is None:
        return
    batched = images.ndim == ndim
    order = scope.choose(("C" + spatial, spatial + "C", spatial[:1] + "C" + spatial[1:]))
    order = scope.choose(("N" + order, order + "N")) if batched else "N" + order
    shape = images.shape if batched else (1, *images.shape)
    sizes = dict(zip(order, shape, strict=True))
    features, out = sizes["C"], scope.choose((2, 3, 1))
    groups = scope.choose([1, 1, 1, *(size for size in (2, 3) if features % size == 0)])
    batches = scope.choose([1, 1, 1, *(size for size in (2, 3) if groups == 1 and sizes["N"] % size == 0)])
    out *= groups * batches
    window = {letter: scope.choose(range(1, min(3, sizes[letter]) + 1)) for letter in spatial}
    lengths = {"O": out, "I": features // groups, **window}
    kernel_order = scope.choose(("OI" + spatial, spatial + "IO", "I" + spatial + "O"))
    kernel_shape = tuple(lengths[letter] for letter in kernel_order)
    if ndim == 4 and scope.closed:
        return
    kernel = scope.of_shape(kernel_shape, leaf=scope.choose((True, False)))
    if kernel is None:
        return
    result_order = scope.choose(("NC" + spatial, "N" + spatial + "C", "C" + spatial + "N"))
    count = len(spatial)
    options = f"window_strides={[scope.choose((1, 2)) for _ in spatial]}"
    options += f", dimension_numbers={(order, kernel_order, result_order)}"
    options += f", padding={scope.choose(([(1, 0)] * count, [(0, 0)] * count))}"
    for name, values in (("lhs_dilation", (1, 1, 2)), ("rhs_dilation", (1, 1, 2))):
        if (dilation := scope.choose(values)) != 1:
            options += f", {name}={[dilation] * count}"
    for name, number in (("feature_group_count", groups), ("batch_group_count", batches)):
        if number != 1:
            options += f", {name}={number}"
    given = images.name if batched else f"{images.name}[None]"
    code = f"jax.lax.conv_general_dilated({given}, {kernel.name}, {options})"
    if sizes["N"] == 1 and ndim + 1 > 3 or not batched:
        code += f".sum({result_order.index('N')})" if scope.choose((True, False)) else ".squeeze()"
    scope.define(code, images.size * kernel.size * (lengths["I"] * 2) ** 0.5)


def attend(scope: Scope) -> None:
    """Scores of queries and keys, with biases that may be shared and relative terms, and the values they choose."""
    hidden = scope.pick(lambda value: value.ndim == 2)
    if hidden is None or scope.closed:
        return
    length, width = hidden.shape
    dim = scope.choose((width, 2, 3))
    projected = []
    for _ in "qk":
        kernel = scope.of_shape((width, dim), leaf=True)
        assert kernel is not None
        projected += scope.define(f"{hidden.name} @ {kernel.name}", 2 * hidden.size)
    if len(projected) != 2:
        return
    query, key = projected
    first, second = (scope.of_shape((dim,), leaf=True) for _ in range(2))
    assert first is not None
    assert second is not None
    scores = f"({query.name} + {first.name}[None]) @ {key.name}.T"
    if scope.choose((True, False)):
        relative = scope.of_shape((length, dim), leaf=scope.choose((True, False)))
        assert relative is not None
        scores += f" + ({query.name} + {second.name}[None]) @ {relative.name}.T"
    elif scope.choose((True, False)):
        scores = f"({query.name} + {first.name}[None]) @ ({key.name} + {second.name}[None]).T"
    scores = scope.define(scores, 6.0)
    if scores:
        values = scope.choose((hidden, key, query))
        scope.define(f"jax.nn.softmax({scores[0].name}) @ {values.name}", values.size)


def solve(scope: Scope) -> None:
    """A linear system."""
    right = scope.pick(lambda value: value.ndim in (1, 2))
    if right is None:
        return
    size = right.shape[0]
    matrix = scope.of_shape((size, size), leaf=scope.choose((True, False)))
    if matrix is not None:
        scope.define(f"jnp.linalg.solve(4.0 * jnp.eye({size}) + jnp.tanh({matrix.name}), {right.name})", right.size)
