"""Starts the command line, `jaxgeo`. Nothing is loaded until it runs, so that `main` can say what is not installed."""

import os
import sys

from jaxgeo._signals import SIGNALS


def main() -> None:
    """Run the command line and exit: 0 if all went well, 2 on input to mend, 130 after Ctrl-C, 143 after SIGTERM.

    The code is 1 otherwise.
    """
    SIGNALS.install()
    # JAX's Cholesky runs on SciPy's OpenBLAS, whose threads wait for one another in a busy loop: where another program
    # has a core, a factorisation of milliseconds becomes one of a second. A single thread is as fast without.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from jaxgeo.app.cli.app import run
    except ModuleNotFoundError as error:
        print(f'error: {error.name} is not installed; run: pip install "jaxgeo[cli]"', file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
