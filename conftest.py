"""Settings for every pytest run, of tests and of doctests alike."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Before torch is imported: threads that compete for few cores are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Modules that exist for an optional package cannot be collected for doctests without it.
collect_ignore_glob = []
if find_spec("triton") is None:
    collect_ignore_glob.append("moopt/kernels/*/triton.py")
if find_spec("transformers") is None:
    collect_ignore_glob.append("moopt/integrations/*")
