"""Benchmarks: `python -m benchmarks.NAME` runs a benchmark and writes `benchmarks/results/NAME.json`."""
