"""sharding: the only place that knows torch.distributed."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
from torch import Tensor

CHECKED_STEPS = 2
"""Replicas are compared in the first steps only: a wrong set-up shows at once, a sync costs."""

REPLICA_RTOL = 1e-6
"""All-reduced gradients are equal bit for bit; different batches differ by far more than this."""


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


def refuse_unsynchronised(gramian: Tensor, step: int) -> None:
    """Raise where the replicas of a process group hold different gradients.

    DistributedDataParallel synchronises only the first backward of a forward, and only that of
    the last forward: further objectives would silently stay local, and the replicas drift apart.

    Args:
        gramian: float64 `[m, m]` of this process.
        step: number of combined steps before this one; from `CHECKED_STEPS` on nothing is done.

    Raises:
        RuntimeError: in every process of the group, if any two disagree.
    """
    distributed = torch.distributed
    if step >= CHECKED_STEPS or not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_world_size() == 1:
        return
    finite = torch.nan_to_num(gramian, nan=-1.0, posinf=-2.0, neginf=-3.0)
    largest, smallest = finite.clone(), finite.clone()
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    distributed.all_reduce(smallest, op=distributed.ReduceOp.MIN)
    allowed = REPLICA_RTOL * torch.maximum(largest.abs(), smallest.abs()).max()
    if bool(((largest - smallest).abs() > allowed).any()):
        raise RuntimeError(
            "the processes hold different gradients: DistributedDataParallel synchronises one"
            " backward per forward, so losses of one forward must not be differentiated apart. Run"
            " one forward and backward per objective: `with optimizer.objective(name):"
            " loss_of(model).backward()`, then optimizer.combine_()."
        )
