"""one_pass: weigh the losses first, then one backward pass of their weighted sum."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.amp import GradScaler

from moopt.gradients.replicas import is_checked_step, mean_over_processes, refuse_other_gradients
from moopt.gradients.shards import is_sharded
from moopt.records.result import Solved
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.step.differentiate import reaches, refuse_unreached, scale_of
from moopt.step.step_settings import StepSettings
from moopt.step.take_step import record_of
from moopt.step.weigh import Weighed
from moopt.weightings import Weighting
from moopt.weightings.cleared import Step, weigh_cleared


def one_pass(
    losses: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    settings: StepSettings,
    scaler: GradScaler | None = None,
) -> StepRecord:
    """Take one backward pass of `sum_i w_i loss_i` with fixed weights, added to every `.grad`.

    As after `loss.backward()`: what a wrapper does to gradients happens once, all parameters take
    the weighted sum, and a pass that fails may leave a part of it in `.grad`.

    Args:
        losses: unscaled scalars with a graph, by name.
        parameters: those of the optimizer.
        settings: with a method that looks at the losses only, or at nothing.
        scaler: the pass runs scaled; the weights are those without a scaler.

    Returns:
        A record that is not `measured`: losses and weights, and NaN for what compares gradients.

    Raises:
        ValueError: a loss reaches no parameter.
        RuntimeError: the processes hold different objectives or gradients.
    """
    names, m = tuple(losses), len(losses)
    memory, checked = settings.memory, settings.checked
    method = memory.method
    assert isinstance(method, Weighting)
    first, own = next(iter(losses.values())), set(map(id, parameters))
    unreached = [name for name, loss in losses.items() if not reaches(loss, own)]
    if unreached:
        refuse_unreached(unreached, everyone=len(unreached) == m)
    device = first.device
    local = torch.stack([loss.detach().to(device, torch.float64) for loss in losses.values()])
    compared = checked is not None and is_checked_step(names, checked, device)
    values = averaged = local.cpu().numpy()
    if checked is not None and "losses" in method.needs:
        averaged = mean_over_processes(local).cpu().numpy()
    active = np.ones(m, dtype=bool)
    given = Step(
        gramian=None,
        active=active,
        losses=averaged,
        names=names,
        lr=settings.lr,
        step=memory.step(settings.step),
    )
    solved = Solved(np.ones(1))
    if m > 1:
        solved = weigh_cleared(method, given, memory.read(names))
    weighted_backward_(losses, solved.weights.tolist(), scale_of(scaler, first))
    if compared:
        _refuse_drifting(parameters)
    if m > 1:  # only now: a pass that failed was no step
        memory.write(names, solved.state or {})
    status = solved.status
    if status is None:
        finite = np.isfinite(averaged).all()
        status = SolverStatus.CONVERGED if finite else SolverStatus.NON_FINITE
    found = Weighed(solved.weights, active, SolverStatus(int(status)))
    unknown = np.full((m, m), math.nan)
    return record_of(found, values, unknown, names=names, step=settings.step, measured=False)


def _refuse_drifting(parameters: Sequence[Tensor]) -> None:
    """Compare the length of the direction between processes that hold all of it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if is_sharded(gradients):
        return
    device = gradients[0].device
    entries = [g.detach().coalesce().values() if g.is_sparse else g.detach() for g in gradients]
    squares = [e.abs().double().square().sum().to(device) for e in entries]
    refuse_other_gradients(
        torch.stack(squares).sum().reshape(1, 1),
        "nothing averages them after the backward pass, so the replicas drift apart. Wrap the"
        " model in DistributedDataParallel.",
    )


def weighted_backward_(
    losses: Mapping[str, Tensor], weights: Sequence[float], scale: Tensor | None = None
) -> None:
    """The backward pass of `sum_i w_i loss_i` with fixed weights, without building the sum.

    Args:
        losses: scalars with a graph, by name.
        weights: `[m]`.
        scale: the factor of a GradScaler.
    """
    values = list(losses.values())
    seeds = [torch.full_like(v, float(w)) for v, w in zip(values, weights, strict=True)]
    if scale is not None:
        seeds = [(seed.double() * scale.to(seed.device)).to(seed.dtype) for seed in seeds]
    torch.autograd.backward(values, grad_tensors=seeds)
