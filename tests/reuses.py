"""Networks that use one product, leaf or bias in several ways, as functions of params and a sample."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

import jaxgeo as jg


class Reuse(NamedTuple):
    """A network, the shapes of its parameters, and the shape of a sample.

    - `separate`: the same function, with each product made anew for each of its biases.
    """

    apply: Callable[[dict, jax.Array], jax.Array]
    shapes: dict[str, tuple[int, ...]]
    sample: tuple[int, ...]
    separate: Callable[[dict, jax.Array], jax.Array] | None = None

    def problem(self, key: jax.Array, num_samples: int = 4) -> tuple[jg.Problem, Any]:
        keys = jr.split(key, len(self.shapes) + 2)
        params = {name: jr.normal(k, shape) / 2 for k, (name, shape) in zip(keys[2:], self.shapes.items(), strict=True)}
        inputs = jr.normal(keys[0], (num_samples, *self.sample))
        outputs = jax.eval_shape(jax.vmap(self.apply, (None, 0)), params, inputs)
        return jg.Problem(self.apply, inputs, jg.L2(jr.normal(keys[1], outputs.shape) / 4)), params


def subtracted(product: jax.Array, bias: jax.Array) -> jax.Array:
    """product + bias, written so that the bias is no bias to the structured Gram matrix."""
    return product - (-bias)


def skip(add: Callable) -> Callable:
    def apply(p, x):
        y = p["w"] @ x
        return p["v"] @ jnp.tanh(add(y, p["b"])) + p["u"] @ jnp.sin(y)

    return apply


def residual(p, x):
    y = p["w"] @ x
    return p["v"] @ (y + jnp.tanh(y + p["b"]))


def both_as_outputs(p, x):
    y = p["w"] @ x
    return jnp.concatenate([y + p["b"], y])


def two_biases(p, x):
    y = p["w"] @ x
    return p["v"] @ (jnp.tanh(y + p["b"]) * jnp.sin(y + p["c"]))


def bias_twice(p, x):
    return p["v"] @ jnp.tanh(p["w"] @ x + p["b"] + p["b"])


def bias_then_used(p, x):
    """Right to share δ here: the sum is used twice, the product once."""
    y = p["w"] @ x + p["b"]
    return p["v"] @ (jnp.tanh(y) + y)


def second_bias_on_a_shared_sum(p, x):
    y = p["w"] @ x + p["b"]
    return p["v"] @ (jnp.tanh(y + p["c"]) + y)


def concatenated(p, x):
    y = p["w"] @ x
    return p["v2"] @ jnp.concatenate([jnp.tanh(y + p["b"]), jnp.tanh(-y + p["c"])])


def transposed_and_shared(p, x):
    y = p["w"] @ x.T
    return jnp.sum(jnp.tanh(y.T + p["b"][None]), 0) + jnp.sum(jnp.sin(y), 1)


def convolution(p, x):
    y = jax.lax.conv_general_dilated(x[None], p["k"], (1,), "SAME")[0]
    return jnp.sum(jnp.tanh(y + p["b"][:, None]) + jnp.sin(y), axis=1)


def inside_a_scan(p, x):
    def step(h, _):
        y = p["square"] @ h
        return jnp.tanh(y + p["b3"]), y

    h, ys = jax.lax.scan(step, x, None, length=3)
    return jnp.concatenate([h, jnp.sum(ys, 0)])


def inside_jit(p, x):
    return jax.jit(lambda y: p["v"] @ jnp.tanh(y + p["b"]))(p["w"] @ x)


def outside_and_inside_jit(p, x):
    y = p["w"] @ x
    return jax.jit(lambda y: p["v"] @ jnp.tanh(y + p["b"]))(y) + p["u"] @ jnp.sin(y)


def same_product_twice(p, x):
    return p["v"] @ jnp.tanh(p["w"] @ x + p["b"]) + p["u"] @ jnp.sin(p["w"] @ x)


def relative_attention(p, x):
    """Transformer-XL's scores (q + u)·k + (q + v)·r."""
    q, k, r = x @ p["q"], x @ p["key"], jnp.cos(x) @ p["r"]
    scores = (q + p["qu"][None]) @ k.T + (q + p["qv"][None]) @ r.T
    return jnp.sum(jax.nn.softmax(scores) @ x, axis=0)


def lookup_and_bias(p, x):
    row = p["table"][jnp.argmax(x)]
    return p["v"] @ jnp.tanh(row + p["b"])


def lookup_product_and_bias(p, x):
    row = p["table"][jnp.argmax(x)]
    return jnp.tanh(jnp.concatenate([x, x[:1]]) @ p["table"] + p["b"]) + row


def gram_of_a_kernel_and_bias(p, x):
    square = p["square"] @ p["square"].T + p["b3"][None]
    return jnp.tanh(square) @ x


def bias_that_is_a_kernel_too(p, x):
    y = p["w"] @ x + p["b"] + p["c"]
    return p["v"] @ jnp.tanh(y) + jnp.dot(p["b"], jnp.sin(y))[None]


def literals_that_compare_equal(p, x):
    y = p["w"] @ x
    negative = -1 - jnp.sum(x**2)
    return p["v"] @ (y * jnp.atan2(0.0, negative) + jnp.sin(y) * jnp.atan2(-0.0, negative))


W, V, B = {"w": (5, 3)}, {"v": (2, 5)}, {"b": (5,)}
FORMS = {
    "skip": Reuse(skip(jnp.add), W | V | B | {"u": (2, 5)}, (3,), skip(subtracted)),
    "residual": Reuse(residual, W | V | B, (3,)),
    "both as outputs": Reuse(both_as_outputs, W | B, (3,)),
    "two biases": Reuse(two_biases, W | V | B | {"c": (5,)}, (3,)),
    "concatenated": Reuse(concatenated, W | B | {"c": (5,), "v2": (2, 10)}, (3,)),
    "convolution": Reuse(convolution, {"k": (4, 2, 3)} | {"b": (4,)}, (2, 5)),
    "inside a scan": Reuse(inside_a_scan, {"square": (3, 3), "b3": (3,)}, (3,)),
    "relative attention": Reuse(
        relative_attention, {"q": (3, 4), "key": (3, 4), "r": (3, 4), "qu": (4,), "qv": (4,)}, (3, 3)
    ),
}
OTHERS = {
    "bias twice": Reuse(bias_twice, W | V | B, (3,)),
    "bias, then used": Reuse(bias_then_used, W | V | B, (3,)),
    "second bias on a shared sum": Reuse(second_bias_on_a_shared_sum, W | V | B | {"c": (5,)}, (3,)),
    "transposed and shared": Reuse(transposed_and_shared, W | B, (5, 3)),
    "inside jit": Reuse(inside_jit, W | V | B, (3,)),
    "outside and inside jit": Reuse(outside_and_inside_jit, W | V | B | {"u": (2, 5)}, (3,)),
    "same product twice": Reuse(same_product_twice, W | V | B | {"u": (2, 5)}, (3,)),
    "lookup and bias": Reuse(lookup_and_bias, {"table": (4, 5)} | V | B, (3,)),
    "lookup, product and bias": Reuse(lookup_product_and_bias, {"table": (4, 5)} | B, (3,)),
    "kernel times itself and bias": Reuse(gram_of_a_kernel_and_bias, {"square": (3, 3), "b3": (3,)}, (3,)),
    "bias that is a kernel too": Reuse(bias_that_is_a_kernel_too, W | B | {"c": (5,), "v": (1, 5)}, (3,)),
    "literals that compare equal": Reuse(literals_that_compare_equal, W | V, (3,)),
}
