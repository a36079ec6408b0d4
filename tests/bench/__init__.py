"""Benchmarks: ratios within one run on a named processor, never part of the tests. ``python -m tests.bench.NAME``."""
