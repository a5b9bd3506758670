"""Benchmarks: `python -m benchmarks.NAME` measures and writes `benchmarks/results/NAME.json`."""
