"""Start the command line, `jaxgeo`. Nothing is imported before it runs, so that `main` can report missing packages."""

import os
import sys

from jaxgeo._signals import SIGNALS


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 on success, 2 for wrong input, 130 after Ctrl-C, 143 after SIGTERM, and 1 otherwise.
    """
    SIGNALS.install()
    # JAX's Cholesky uses SciPy's OpenBLAS, whose threads wait for each other in a busy loop. If another program uses a
    # core, a factorisation then takes a second instead of milliseconds. One thread is as fast, and avoids this.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # JAX 0.10 writes pages of false alarms each time it reads a program that this same processor compiled earlier.
    # Errors that matter come as exceptions too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from jaxgeo.app.cli.app import run
    except ModuleNotFoundError as error:
        print(f'error: {error.name} is not installed; run: pip install "jaxgeo[cli]"', file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
