"""Features of a point, which a network gets as inputs instead of the coordinates."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgeo._checks import check_count, check_positive
from jaxgeo.equations.box import Box


class Periodic(eqx.Module):
    """Cosines and sines of some coordinates make a network periodic in them; the others are scaled to [−1, 1].

    **Arguments:**

    - `box`: its sides are the periods.
    - `names`: the names of the periodic coordinates; all by default.
    - `modes`: how many multiples of the lowest frequency to use.

    ```python
    >>> import jax.numpy as jnp
    >>> from jaxgeo.equations import Box, Periodic
    >>> features = Periodic(Box(t=(0, 1), x=(-1, 1)), "x")
    >>> features.size, features(jnp.array([0.5, 1.0])).round(3).tolist()
    (3, [0.0, -1.0, 0.0])

    ```
    """

    box: Box
    names: tuple[str, ...] = eqx.field(static=True)
    modes: int = eqx.field(static=True)

    def __init__(self, box: Box, *names: str, modes: int = 1):
        check_count("modes", modes)
        for name in names:
            box.index(name)
        self.box, self.names, self.modes = box, names or box.names, modes

    @property
    def size(self) -> int:
        """How many numbers the network sees."""
        return self.box.dim + len(self.names) * (2 * self.modes - 1)

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " f"]:
        """The features of a point, those that are not periodic first."""
        scaled = self.box.scaled(point)
        periodic = np.array([name in self.names for name in self.box.names])
        angles = jnp.pi * scaled[periodic]
        angles = jnp.ravel(jnp.arange(1, self.modes + 1, dtype=point.dtype)[:, None] * angles[None])
        return jnp.concatenate([scaled[~periodic], jnp.cos(angles), jnp.sin(angles)])


class Fourier(eqx.Module):
    """Cosines and sines of random projections of a point, for solutions with high frequencies.

    Reference: M. Tancik et al., Fourier features let networks learn high frequency functions in low dimensional
        domains, NeurIPS 2020

    **Arguments:**

    - `box`: its sides are scaled to [−1, 1].
    - `count`: the number of projections; the network gets twice as many numbers.
    - `scale`: the standard deviation of the frequencies, in half turns over [−1, 1].
    - `key`: for the random frequencies, which are not trained.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from jaxgeo.equations import Box, Fourier
    >>> features = Fourier(Box(x=(0, 1)), 4, 2.0, key=jax.random.key(0))
    >>> features.size, jnp.abs(features(jnp.array([0.5]))).tolist()
    (8, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    ```
    """

    box: Box
    # Static, so that no flow or optimizer trains them.
    frequencies: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(self, box: Box, count: int, scale: float = 1.0, *, key: Array):
        check_count("count", count)
        check_positive("scale", scale)
        drawn = scale * np.asarray(jax.random.normal(key, (count, box.dim)))
        self.box, self.frequencies = box, tuple(map(tuple, drawn.tolist()))

    @property
    def size(self) -> int:
        """How many numbers the network sees."""
        return 2 * len(self.frequencies)

    def __call__(self, point: Float[Array, " d"]) -> Float[Array, " f"]:
        """The features of a point."""
        angles = jnp.pi * jnp.asarray(self.frequencies, point.dtype) @ self.box.scaled(point)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
