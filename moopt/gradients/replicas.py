"""replicas: what the processes of a group must agree on, compared and averaged."""

import zlib
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

CHECKED_STEPS = 2
"""Replicas are compared in the first steps of each set of objectives: a check synchronises."""

CHECK_EVERY = 100
"""And in every so many steps after, for what begins to go wrong later."""

REPLICA_RTOL = 1e-6
"""All-reduced gradients are equal bit for bit; different batches differ by far more than this."""


def mean_over_processes(losses: Tensor) -> Tensor:
    """The mean of `losses` over the processes of the group.

    DistributedDataParallel averages gradients. Weights made of the losses must be made of their
    averages, or every process would weigh its own way and the replicas drift apart.

    Args:
        losses: float64 `[m]`; the same objectives in every process.
    """
    mean = losses / torch.distributed.get_world_size()
    torch.distributed.all_reduce(mean)
    return mean


def is_checked_step(
    names: tuple[str, ...], checked: Counter[tuple[str, ...]], device: torch.device
) -> bool:
    """Whether to compare the gradients of the processes in this step; counts it.

    Args:
        names: the objectives, which must be the same in every process.
        checked: how often each set of objectives was combined. The processes are compared in the
            first `CHECKED_STEPS` of each and in every `CHECK_EVERY`-th step.
        device: of the gradients.

    Raises:
        RuntimeError: they combine different objectives; in every process of the group.
    """
    checked[names] += 1
    if checked[names] > CHECKED_STEPS and sum(checked.values()) % CHECK_EVERY != 0:
        return False
    identity = float(zlib.crc32("\0".join(names).encode()))
    smallest, largest = _ends(torch.full((1,), identity, dtype=torch.float64, device=device))
    if bool(smallest != largest):
        raise RuntimeError(
            f"the processes combine different objectives; this one has {', '.join(names)}. Record"
            " the same names in the same order in every process."
        )
    return True


def refuse_other_gradients(gramian: Tensor, remedy: str) -> None:
    """Raise where the processes hold different gradients.

    Args:
        gramian: float64 `[m, m]`, inner products of this process's gradients. Each is compared in
            units of the two norms, so that a small gradient counts as much as a large one.
        remedy: what to do instead.

    Raises:
        RuntimeError: in every process of the group, if any two disagree.
    """
    finite = torch.nan_to_num(gramian, nan=-1.0, posinf=-2.0, neginf=-3.0)
    smallest, largest = _ends(finite)
    norms = torch.maximum(smallest.diagonal().abs(), largest.diagonal().abs()).sqrt()
    units = norms[:, None] * norms
    if bool((largest - smallest > REPLICA_RTOL * units).any()):
        raise RuntimeError(
            f"the processes hold different gradients: {remedy} Processes that train different"
            " models: CommonDescent(..., check_replicas=False)."
        )


def check(
    gramian: Tensor,
    names: tuple[str, ...],
    checked: Counter[tuple[str, ...]],
    outside: Callable[[], Tensor] | None = None,
) -> None:
    """Raise where the replicas of a process group hold different rows of gradients.

    DistributedDataParallel synchronises only the first backward of a forward, and only that of
    the last forward: further objectives would silently stay local, and the replicas drift apart.

    Args:
        gramian: float64 `[m, m]` of this process.
        names: the objectives, which must be the same in every process.
        checked: for `is_checked_step`; one for each model, kept by the caller.
        outside: gives float64 `[k]`, squared norms of gradients that the Gramian leaves out; called
            where the processes are compared.

    Raises:
        RuntimeError: in every process of the group, if any two disagree.
    """
    if not is_checked_step(names, checked, gramian.device):
        return
    if outside is not None:
        gramian = torch.block_diag(gramian, outside().diag())
    refuse_other_gradients(
        gramian,
        "DistributedDataParallel synchronises one backward per forward, so losses of one forward"
        " must not be differentiated apart. Run one forward and backward per objective: `with"
        " optimizer.objective(name): loss_of(model).backward()`, then optimizer.combine_(); with"
        " no_sync(), let the last micro-batch of each objective synchronise.",
    )


def any_process(flags: Tensor) -> Tensor:
    """Whether each flag is set in any process of the group.

    Args:
        flags: bool `[m]`; the same objectives in every process.
    """
    counts = flags.to(torch.int32)
    torch.distributed.all_reduce(counts, op=torch.distributed.ReduceOp.MAX)
    return counts.bool()


def has_replicas() -> bool:
    """Whether this process is one of several in a process group."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def _ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest of each value over the processes."""
    ends = torch.stack([-values, values])
    torch.distributed.all_reduce(ends, op=torch.distributed.ReduceOp.MAX)
    return -ends[0], ends[1]
