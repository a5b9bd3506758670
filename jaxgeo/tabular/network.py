"""The networks for tables: a linear path from inputs to outputs beside dense tanh layers, with D in closed form."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

Vector = Float[np.ndarray, " K"]


@dataclass(frozen=True)
class Shape:
    """f(x) = a_L V + xS + c with a_0 = x and a_l = tanh(a_{l−1}W_l + b_l), and its parameters as one vector.

    NumPy in float64: these networks are small, and nothing is compiled for a table of another size.

    - `inputs`, `widths`, `outputs`: how many there are, widths of the hidden layers.
    - `by_input`: whether the weights of each input in the first layer have a prior precision of their own.
    """

    inputs: int
    widths: tuple[int, ...]
    outputs: int
    by_input: bool = False

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of W_1, b_1, W_2, …, V, S and c."""
        sizes = (self.inputs, *self.widths)
        hidden = [shape for a, b in zip(sizes, sizes[1:], strict=False) for shape in ((a, b), (b,))]
        last = ((sizes[-1], self.outputs),) if self.widths else ()
        return (*hidden, *last, (self.inputs, self.outputs), (self.outputs,))

    @cached_property
    def ends(self) -> Int[np.ndarray, " ends"]:
        """Where each array begins in θ, and where the last one ends."""
        return np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])

    @property
    def size(self) -> int:
        """K."""
        return int(self.ends[-1])

    @cached_property
    def groups(self) -> Int[np.ndarray, " K"]:
        """Which precision each parameter has: one for each array, or for each row of W_1 and each array but that."""
        found, count = [], 0
        for number, shape in enumerate(self.shapes):
            if number == 0 and self.by_input and self.widths:
                found.append(np.repeat(np.arange(shape[0]), shape[1]))
                count = shape[0]
            else:
                found.append(np.full(math.prod(shape), count))
                count += 1
        return np.concatenate(found)

    def split(self, theta: Vector) -> list[np.ndarray]:
        """The arrays."""
        return [part.reshape(shape) for part, shape in zip(np.split(theta, self.ends[1:-1]), self.shapes, strict=True)]

    def start(self, random: np.random.RandomState) -> Vector:
        """Weights of deviation 1/√(inputs of the layer), and zeros for biases and the linear path."""
        linear = len(self.shapes) - 2
        return np.concatenate(
            [
                random.normal(size=shape).ravel() / math.sqrt(shape[0])
                if len(shape) == 2 and number < linear
                else np.zeros(math.prod(shape))
                for number, shape in enumerate(self.shapes)
            ]
        )

    def activations(self, theta: Vector, x: Float[np.ndarray, "N inputs"]) -> list[np.ndarray]:
        """a_0, …, a_L."""
        arrays, found = self.split(theta), [x]
        for layer in range(len(self.widths)):
            found.append(np.tanh(found[-1] @ arrays[2 * layer] + arrays[2 * layer + 1]))
        return found

    def read_out(self, theta: Vector, activations: list[np.ndarray]) -> Float[np.ndarray, "N outputs"]:
        """f(x) from a_0, …, a_L."""
        *_, slopes, offset = arrays = self.split(theta)
        straight = activations[0] @ slopes + offset
        return straight + activations[-1] @ arrays[-3] if self.widths else straight

    def __call__(self, theta: Vector, x: Float[np.ndarray, "N inputs"]) -> Float[np.ndarray, "N outputs"]:
        return self.read_out(theta, self.activations(theta, x))

    def rows(
        self, theta: Vector, activations: list[np.ndarray], root: Float[np.ndarray, "N R outputs"]
    ) -> Float[np.ndarray, "NR K"]:
        """LD, with L a matrix for each sample."""
        arrays, (count, height) = self.split(theta), root.shape[:2]
        found = np.empty((count, height, self.size))
        parts = [found[:, :, a:b] for a, b in zip(self.ends, self.ends[1:], strict=False)]
        parts[-1][...] = root
        parts[-2].reshape(count, height, self.inputs, -1)[...] = activations[0][:, None, :, None] * root[:, :, None, :]
        if self.widths:
            parts[-3].reshape(count, height, self.widths[-1], -1)[...] = (
                activations[-1][:, None, :, None] * root[:, :, None, :]
            )
            delta = root @ arrays[-3].T
            for layer in reversed(range(len(self.widths))):
                delta = delta * (1 - activations[layer + 1] ** 2)[:, None]
                parts[2 * layer + 1][...] = delta
                parts[2 * layer].reshape(count, height, -1, self.widths[layer])[...] = (
                    activations[layer][:, None, :, None] * delta[:, :, None, :]
                )
                if layer:
                    delta = delta @ arrays[2 * layer].T
        return found.reshape(count * height, -1)
