"""Make `python -m jaxgeo` run the `jaxgeo` command."""

from jaxgeo.cli import main

if __name__ == "__main__":
    main()
