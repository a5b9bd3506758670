"""Save a point of an orbit in a file, and resume from it."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgeo._checks import MOST, check_number
from jaxgeo.outputs import Params


def save_point(path: str | Path, s: Float[Array, ""], params: Params) -> None:
    """Save the flow time and θ in a file, exactly to the last bit.

    **Arguments:**

    - `path`: the file; it is replaced if it exists.
    - `s`: flow time at `params`.

    **Raises:** `ValueError` if the file cannot be written, or if `s` is not a finite number ≥ 0.
    """
    check_number("s", s, least=0, most=MOST)
    try:
        with _file(path).open("wb") as file:
            eqx.tree_serialise_leaves(file, (jnp.asarray(s), params))
    except OSError as error:
        raise ValueError(f"`path` {path} cannot be written ({error.strerror}); choose another.") from error


def load_point(path: str | Path, like: Params) -> tuple[Float[Array, ""], Params]:
    """Load the flow time and θ that `save_point` saved: pass them to `jaxgeo.solve_flow` as `s0` and `params`.

    A solver with fixed steps then continues as if it had not been interrupted, equal to the last bit. An adaptive
    solver does so within its tolerance, because it chooses its next step anew, unless `dt0` gives it.

    **Arguments:**

    - `path`: the file.
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
    if _file(path).exists() and not _file(path).is_file():
        raise ValueError(f"`path` {path} is not a plain file; pass what `save_point` wrote.")
    try:
        with _file(path).open("rb") as file:
            found = eqx.tree_deserialise_leaves(file, (jnp.zeros((), jnp.result_type(*numbers)), like))
            if file.read(1):
                raise ValueError("the file holds more than that")
    except OSError as error:
        raise ValueError(f"`path` {path} cannot be read ({error.strerror}); pass what `save_point` wrote.") from error
    except Exception as error:  # Equinox and NumPy raise many kinds of errors for other arrays, or for none.
        raise ValueError(
            f"`path` {path} holds no parameters of the form of `like`: {error}. Build `like` as the parameters were "
            "built when `save_point` wrote them."
        ) from error
    return found


def _file(path: str | Path) -> Path:
    """The path with the suffix .eqx if it has none, as Equinox does."""
    if not isinstance(path, str | Path):
        raise ValueError(f"`path` must be the path of a file; got {path!r}.")
    path = Path(path)
    return path if path.suffix else path.with_suffix(".eqx")
