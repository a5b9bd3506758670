"""Keep JAX's factorisations on a CPU to one thread while something is trained."""

import contextlib
import threading
from collections.abc import Iterator

# JAX's LAPACK on a CPU, which JAX itself loads when it first needs it. A limit holds only for what is loaded.
import scipy.linalg.lapack  # noqa: F401
from threadpoolctl import threadpool_limits

_lock = threading.Lock()
_limits: list[threadpool_limits] = []
_users = 0


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread for the whole process, until the last of several uses at once ends.

    JAX's LAPACK on a CPU is SciPy's OpenBLAS, whose threads wait for each other in a busy loop: if another program uses
    a core, a step takes ten times as long. One thread is about as fast, and avoids this. `jaxgeo.fit` does so itself.

    ```python
    >>> import jax.numpy as jnp, jaxgeo as jg
    >>> with jg.fitting.one_blas_thread():
    ...     print(jnp.linalg.qr(jnp.eye(2), mode="r").shape)
    (2, 2)

    ```
    """
    global _users
    with _lock:
        if _users == 0:
            _limits.append(threadpool_limits(1, user_api="blas"))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.pop().restore_original_limits()
