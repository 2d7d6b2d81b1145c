"""Benchmarks: one file per claim, each run as `python -m benchmarks.NAME`."""
