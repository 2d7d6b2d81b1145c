"""sharding: the only place that knows torch.distributed."""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

CHECKED_STEPS = 2
"""Replicas are compared in the first steps of each set of objectives: a check synchronises."""

CHECK_EVERY = 100
"""And in every so many steps after, for what begins to go wrong later."""

REPLICA_RTOL = 1e-6
"""All-reduced gradients are equal bit for bit; different batches differ by far more than this."""


def is_sharded(row: Iterable[Tensor | None]) -> bool:
    """Whether a gradient is a DTensor: this process holds a part of it."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is None:
        return False
    return any(isinstance(gradient, module.DTensor) for gradient in row if gradient is not None)


def refuse_sharded(row: Iterable[Tensor | None]) -> None:
    """Raise where a gradient is a DTensor: its local shard is not the whole inner product.

    Raises:
        TypeError: a gradient is a `torch.distributed.tensor.DTensor`.
    """
    if is_sharded(row):
        raise TypeError(
            "gradients must be plain tensors; got a DTensor (FSDP2 or tensor parallelism), which"
            " this version does not support yet. Use DistributedDataParallel with one forward and"
            " backward per objective, or a single process."
        )


def mean_over_processes(losses: Tensor) -> Tensor:
    """The mean of `losses` over the processes of the group; itself without one.

    DistributedDataParallel averages gradients. Weights made of the losses must be made of their
    averages, or every process would weigh its own way and the replicas drift apart.

    Args:
        losses: float64 `[m]`; the same objectives in every process.
    """
    if not _has_replicas():
        return losses
    mean = losses / torch.distributed.get_world_size()
    torch.distributed.all_reduce(mean)
    return mean


def is_checked_step(names: tuple[str, ...], checked: Counter[tuple[str, ...]]) -> bool:
    """Whether to compare the processes in this step; counts it.

    Args:
        names: the objectives, which must be the same in every process.
        checked: how often each set of objectives was combined. The processes are compared in the
            first `CHECKED_STEPS` of each and in every `CHECK_EVERY`-th step.
    """
    if not _has_replicas():
        return False
    checked[names] += 1
    return checked[names] <= CHECKED_STEPS or sum(checked.values()) % CHECK_EVERY == 0


def refuse_other_names(names: tuple[str, ...], device: torch.device) -> None:
    """Raise where the processes combine different objectives.

    Raises:
        RuntimeError: in every process of the group, if any two disagree.
    """
    identity = float(zlib.crc32("\0".join(names).encode()))
    if _spread(torch.full((1,), identity, dtype=torch.float64, device=device)) > 0:
        raise RuntimeError(
            f"the processes combine different objectives; this one has {', '.join(names)}. Record"
            " the same names in the same order in every process."
        )


def refuse_other_gradients(gramian: Tensor, remedy: str) -> None:
    """Raise where the processes hold different gradients.

    Args:
        gramian: float64 `[m, m]`, inner products of this process's gradients.
        remedy: what to do instead.

    Raises:
        RuntimeError: in every process of the group, if any two disagree.
    """
    finite = torch.nan_to_num(gramian, nan=-1.0, posinf=-2.0, neginf=-3.0)
    if _spread(finite) > REPLICA_RTOL:
        raise RuntimeError(
            f"the processes hold different gradients: {remedy} Processes that train different"
            " models: CommonDescent(..., check_replicas=False)."
        )


def refuse_unsynchronised(
    gramian: Tensor, names: tuple[str, ...], checked: Counter[tuple[str, ...]]
) -> None:
    """Raise where the replicas of a process group hold different rows of gradients.

    DistributedDataParallel synchronises only the first backward of a forward, and only that of
    the last forward: further objectives would silently stay local, and the replicas drift apart.

    Args:
        gramian: float64 `[m, m]` of this process.
        names: the objectives, which must be the same in every process.
        checked: for `is_checked_step`.

    Raises:
        RuntimeError: in every process of the group, if any two disagree.
    """
    if not is_checked_step(names, checked):
        return
    refuse_other_names(names, gramian.device)
    refuse_other_gradients(
        gramian,
        "DistributedDataParallel synchronises one backward per forward, so losses of one forward"
        " must not be differentiated apart. Run one forward and backward per objective: `with"
        " optimizer.objective(name): loss_of(model).backward()`, then optimizer.combine_(); with"
        " no_sync(), let the last micro-batch of each objective synchronise.",
    )


def _has_replicas() -> bool:
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return False
    return distributed.get_world_size() > 1


def _spread(values: Tensor) -> float:
    """The largest difference between processes, relative to the largest value."""
    ends = torch.stack([values, -values])
    torch.distributed.all_reduce(ends, op=torch.distributed.ReduceOp.MAX)
    largest = ends.abs().max()
    return float((ends[0] + ends[1]).max() / largest) if float(largest) > 0 else 0.0
