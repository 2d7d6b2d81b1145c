"""Benchmarks: one file per claim, each run as `python -m benchmarks.NAME`."""

import os

# numpy's linear algebra reads this once, when it is loaded; torch's threads are set by `report`.
os.environ.setdefault("OMP_NUM_THREADS", "1")
