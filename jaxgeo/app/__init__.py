"""What a person runs: data, runs kept in folders, their reports, and the command line. Arrays are `jaxgeo.fit`'s."""

from jaxgeo.app import data as data, runs as runs
