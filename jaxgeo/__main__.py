"""`python -m jaxgeo` is `jaxgeo`."""

from jaxgeo.cli import main

if __name__ == "__main__":
    main()
