"""The Triton forms: in Triton's interpreter, or on a CUDA device where there is one.

`TRITON_INTERPRET=1` must be set before triton is imported, so these tests have a process of their
own: `make test-kernels`. Elsewhere they are skipped.
"""

import os

import pytest
import torch
import triton  # noqa: F401  (its absence skips the tests)

if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
