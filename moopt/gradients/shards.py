"""shards: tensors of which this process holds a part, and others without memory of their own."""

import sys
from collections.abc import Iterable

import torch
from torch import Tensor


def is_sharded(tensors: Iterable[Tensor | None]) -> bool:
    """Whether one of them is a DTensor: this process holds a part of it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in tensors)


def refuse_sharded(tensors: Iterable[Tensor | None]) -> None:
    """Raise where a tensor is a DTensor: its local shard is not the whole inner product.

    Raises:
        TypeError: one is a `torch.distributed.tensor.DTensor`.
    """
    if is_sharded(tensors):
        raise TypeError(
            "gradients must be plain tensors; got a DTensor (FSDP2 or tensor parallelism). Use"
            " DistributedDataParallel with one forward and backward per objective, or one process."
        )


def refuse_unsupported(gradient: Tensor) -> None:
    """Raise for a gradient that is not a dense tensor with memory of its own.

    Raises:
        TypeError: it is sparse, a DTensor, or a subclass that wraps other tensors.
    """
    refuse_sharded((gradient,))
    shape = list(gradient.shape)
    if gradient.layout is not torch.strided:
        raise TypeError(
            f"gradients must be dense; got {gradient.layout} for a parameter of shape {shape}."
            " Build the module with sparse=False."
        )
    try:
        gradient.untyped_storage().data_ptr()
    except RuntimeError as error:
        raise TypeError(
            f"gradients must be plain tensors; got a {type(gradient).__name__} for a parameter of"
            f" shape {shape}, which wraps other tensors. Unwrap the parameter before training."
        ) from error
