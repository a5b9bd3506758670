"""The network of the ready-made equations: dense layers with tanh between them."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo._checks import check_count, is_count


class Network(eqx.Module):
    """A dense network, sizes[0] → … → sizes[-1], with tanh after all layers but the last.

    Paper: (1.3), (1.4)

    **Arguments:**

    - `sizes`: the number of inputs, the hidden widths, and the number of outputs.
    - `key`: for the initial weights, uniform in ±1/√(inputs of the layer).
    - `dtype`: the dtype of the weights.

    **Raises:** `ValueError` unless `sizes` are at least two positive integers.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from jaxgeo.equations import Network
    >>> network = Network((2, 8, 1), jnp.float32, key=jax.random.key(0))
    >>> network(jnp.ones(2, jnp.float32)).shape, network.sizes
    ((1,), (2, 8, 1))

    ```
    """

    layers: tuple[eqx.nn.Linear, ...]

    def __init__(self, sizes: Sequence[int], dtype: jnp.dtype | type, *, key: Array):
        check_sizes("sizes", sizes)
        if len(sizes) < 2:
            raise ValueError(f"`sizes` must hold at least the numbers of inputs and outputs; got {sizes!r}.")
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = tuple(
            eqx.nn.Linear(a, b, dtype=dtype, key=k) for a, b, k in zip(sizes, sizes[1:], keys, strict=False)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        widths = [layer.weight.shape for layer in self.layers]
        return (widths[0][1], *(width[0] for width in widths))

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        for layer in self.layers[:-1]:
            x = jnp.tanh(layer(x))
        return self.layers[-1](x)


def check_sizes(name: str, sizes: Any) -> None:
    """Raise `ValueError` unless `sizes` are positive integers, as widths of layers must be."""
    if not isinstance(sizes, Sequence | np.ndarray) or not all(is_count(size) for size in sizes):
        raise ValueError(f"`{name}` must be positive integers, such as (32, 32); got {sizes!r}.")


def count_params(sizes: tuple[int, ...]) -> int:
    """K, the number of parameters of a dense network.

    Paper: (1.5)
    """
    return sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False))


def choose_hidden(num_inputs: int, num_outputs: int, num_rows: int) -> tuple[int, int]:
    """Choose two hidden layers of equal width: the smallest multiple of 32, at least 64, with K ≥ 4 QN.

    K ≥ QN already makes the network overparametrized; the factor 4 keeps DDᵀ from being almost singular.

    **Arguments:**

    - `num_inputs`, `num_outputs`: the sizes of an input and an output.
    - `num_rows`: QN.

    ```python
    >>> from jaxgeo.equations import choose_hidden
    >>> choose_hidden(64, 10, 1000), choose_hidden(3, 1, 4000)
    ((64, 64), (128, 128))

    ```
    """
    for name, value in (("num_inputs", num_inputs), ("num_outputs", num_outputs), ("num_rows", num_rows)):
        check_count(name, value)
    width = 64
    while count_params((num_inputs, width, width, num_outputs)) < 4 * num_rows:
        width += 32
    return (width, width)
