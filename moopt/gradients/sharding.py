"""sharding: the only place that knows torch.distributed."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from torch import Tensor


def refuse_sharded(row: Iterable[Tensor | None]) -> None:
    """Raise where a gradient is a DTensor: its local shard is not the whole inner product.

    Raises:
        TypeError: a gradient is a `torch.distributed.tensor.DTensor`.
    """
    module = sys.modules.get("torch.distributed.tensor")
    if module is None:
        return
    if any(isinstance(gradient, module.DTensor) for gradient in row if gradient is not None):
        raise TypeError(
            "gradients must be plain tensors; got a DTensor (FSDP2 or tensor parallelism), which"
            " this version does not support yet. Use DistributedDataParallel with one forward and"
            " backward per objective, or a single process."
        )
