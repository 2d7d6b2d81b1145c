"""Row chunks: how much of a `[rows, V]` tensor is worked on in float32 at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of one float32 working chunk: about what a core's caches hold on a CPU; enough to fill
# a GPU, where a chunk costs a few kernel launches, and still only 64 MiB.
CPU_CHUNK_ELEMENTS = 2**18
DEVICE_CHUNK_ELEMENTS = 2**24


def row_chunks(rows: Tensor) -> Iterator[slice]:
    """Yield the slices of dim 0 that cover `rows` (`[N, V]`), at least one.

    A compiler fuses the whole expression itself and would only unroll the loop: one chunk there.
    """
    count, width = rows.shape
    if torch.compiler.is_compiling():
        yield slice(0, count)
        return
    elements = CPU_CHUNK_ELEMENTS if rows.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    size = max(1, elements // width)
    for start in range(0, max(count, 1), size):
        yield slice(start, min(start + size, count))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the internals and of the loss: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
