"""A point of an orbit, kept in a file to go on from."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, check_number
from jaxgeo.outputs import Params


def save_point(path: str | Path, s: Float[Array, ""], params: Params) -> None:
    """Write the flow time and θ, to the last bit.

    **Arguments:**

    - `path`: of the file, which is replaced.
    - `s`: flow time at `params`.

    **Raises:** `ValueError` if the file cannot be written, or `s` is no number.
    """
    check_number("s", s, least=0, most=MOST)
    try:
        with _file(path).open("wb") as file:
            eqx.tree_serialise_leaves(file, (jnp.asarray(s), params))
    except OSError as error:
        raise ValueError(f"`path` {path} cannot be written ({error.strerror}); choose another.") from error


def load_point(path: str | Path, like: Params) -> tuple[Float[Array, ""], Params]:
    """The flow time and θ that `save_point` wrote: pass them to `jaxgeo.solve_flow` as `s0` and `params`.

    A fixed-step solver then goes on to the last bit as if it had not been interrupted, an adaptive one within its
    tolerance, since it chooses its next step anew (or is given it as `dt0`).

    **Arguments:**

    - `path`: of the file.
    - `like`: parameters of the same structure, shapes and dtypes, such as the initial ones.

    **Raises:** `ValueError` if the file cannot be read, or holds parameters of another structure, shapes or dtypes.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "point"
    >>> jg.integrate.save_point(path, jnp.array(2.0), jnp.ones(3))
    >>> s, params = jg.integrate.load_point(path, jnp.zeros(3))
    >>> float(s), params.tolist()
    (2.0, [1.0, 1.0, 1.0])

    ```
    """
    numbers = [leaf for leaf in jax.tree.leaves(like) if eqx.is_inexact_array(leaf)]
    if not numbers:
        raise ValueError(f"`like` must be parameters such as those that were saved; got {like!r}.")
    try:
        with _file(path).open("rb") as file:
            found = eqx.tree_deserialise_leaves(file, (jnp.zeros((), jnp.result_type(*numbers)), like))
            if file.read(1):
                raise ValueError("there is more in it")
    except OSError as error:
        raise ValueError(f"`path` {path} cannot be read ({error.strerror}); pass what `save_point` wrote.") from error
    except Exception as error:  # Whatever Equinox and NumPy make of other arrays, or of none.
        raise ValueError(
            f"`path` {path} holds no parameters of the form of `like`: {error}. Build them as they were when "
            "`save_point` wrote them."
        ) from error
    return found


def _file(path: str | Path) -> Path:
    """As Equinox has it: with the suffix .eqx where there is none."""
    if not isinstance(path, str | Path):
        raise ValueError(f"`path` must be that of a file; got {path!r}.")
    path = Path(path)
    return path if path.suffix else path.with_suffix(".eqx")
