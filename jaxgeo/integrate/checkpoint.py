"""A point of an orbit, kept in a file to go on from."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo.problem import Params


def save_point(path: str | Path, s: Float[Array, ""], params: Params) -> None:
    """Write the flow time and θ, to the last bit.

    **Arguments:**

    - `path`: of the file, which is replaced.
    - `s`: flow time at `params`.
    """
    eqx.tree_serialise_leaves(path, (jnp.asarray(s), params))


def load_point(path: str | Path, like: Params) -> tuple[Float[Array, ""], Params]:
    """The flow time and θ that `save_point` wrote: pass them to `jaxgeo.solve_flow` as `s0` and `params`.

    A fixed-step solver then goes on to the last bit as if it had not been interrupted, an adaptive one within its
    tolerance, since it chooses its next step anew (or is given it as `dt0`).

    **Arguments:**

    - `path`: of the file.
    - `like`: parameters of the same structure, shapes and dtypes, such as the initial ones.

    **Raises:** `RuntimeError` (by Equinox) if the file's shapes or dtypes are others.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "point"
    >>> jg.integrate.save_point(path, jnp.array(2.0), jnp.ones(3))
    >>> s, params = jg.integrate.load_point(path, jnp.zeros(3))
    >>> float(s), params.tolist()
    (2.0, [1.0, 1.0, 1.0])

    ```
    """
    dtype = jnp.result_type(*(leaf for leaf in jax.tree.leaves(like) if eqx.is_inexact_array(leaf)))
    return eqx.tree_deserialise_leaves(path, (jnp.zeros((), dtype), like))
