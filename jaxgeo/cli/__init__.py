"""The command line, `jaxgeo`. Nothing is loaded until it runs, so that `main` can say what is not installed."""

import sys


def main() -> None:
    """Run the command line and exit: 0 if all went well, 2 on input to mend, 130 after Ctrl-C, 1 otherwise."""
    try:
        from jaxgeo.cli.app import run
    except ModuleNotFoundError as error:
        print(f'error: {error.name} is not installed; run: pip install "jaxgeo[cli]"', file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
