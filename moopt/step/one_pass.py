"""one_pass: weigh the losses first, then one backward pass of their weighted sum."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.amp import GradScaler

from moopt.gradients.replicas import (
    is_checked_step,
    mean_over_processes,
    refuse_other_gradients,
    refuse_other_names,
)
from moopt.gradients.shards import is_sharded
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.scalarizations import Scalarization
from moopt.step.differentiate import reaches, refuse_unreached, scale_of
from moopt.step.method_state import MethodState
from moopt.step.take_step import record_of
from moopt.step.weigh import Weighed
from moopt.weightings import Sum
from moopt.weightings.cleared import Step, weigh_cleared


def one_pass(
    names: tuple[str, ...],
    values: Sequence[Tensor],
    method: Scalarization | Sum,
    memory: MethodState,
    parameters: Sequence[Tensor],
    *,
    scaler: GradScaler | None = None,
    lr: float | None = None,
    step: int = 0,
    checked: Counter[tuple[str, ...]] | None = None,
) -> StepRecord:
    """Take one backward pass of `sum_i w_i loss_i` with fixed weights, added to every `.grad`.

    As after `loss.backward()`: what a wrapper does to gradients happens once, all parameters take
    the weighted sum, and a pass that fails may leave a part of it in `.grad`.

    Args:
        names: of the objectives.
        values: their unscaled losses, scalars with a graph.
        method: one that looks at the losses only, or at nothing.
        memory: what it keeps from step to step.
        parameters: those of the optimizer.
        scaler: the pass runs scaled; the weights are those without a scaler.
        lr: learning rate, for methods that use it.
        step: number of combined steps before this one.
        checked: for `is_checked_step`; None compares no processes and averages no losses.

    Returns:
        A record that is not `measured`: losses and weights, and NaN for what compares gradients.

    Raises:
        ValueError: a loss reaches no parameter.
        RuntimeError: the processes hold different objectives or gradients.
    """
    device, m = values[0].device, len(names)
    own = set(map(id, parameters))
    unreached = [n for n, value in zip(names, values, strict=True) if not reaches(value, own)]
    if len(unreached) == m:
        raise ValueError(
            "no loss reaches a parameter of the optimizer, so there is nothing to step along. Build"
            " the optimizer from the parameters of the model that computes the losses."
        )
    if unreached:
        refuse_unreached(unreached[0])
    local = torch.stack([value.detach().to(device, torch.float64) for value in values])
    compared = checked is not None and is_checked_step(names, checked)
    if compared:
        refuse_other_names(names, device)
    averaged = checked is not None and "losses" in method.needs
    losses = local.cpu().numpy()
    given = Step(
        gramian=None,
        active=np.ones(m, dtype=bool),
        losses=mean_over_processes(local).cpu().numpy() if averaged else losses,
        names=names,
        lr=lr,
        step=memory.step(step),
    )
    found = _weighed(method, given, memory)
    weighted_backward_(values, found.weights.tolist(), scale_of(scaler, values[0]))
    if compared:
        _refuse_drifting(parameters)
    if m > 1:  # only now: a pass that failed was no step
        memory.write(names, found.state)
    unknown = np.full((m, m), math.nan)
    return record_of(found, names, losses, unknown, step, measured=False)


def _weighed(method: Scalarization | Sum, given: Step, memory: MethodState) -> Weighed:
    """The weights of the losses; 1 for a single one."""
    m, nan = len(given.active), math.nan
    assert given.losses is not None
    finite = bool(np.isfinite(given.losses).all())
    status = SolverStatus.CONVERGED if finite else SolverStatus.NON_FINITE
    if m == 1:
        return Weighed(np.ones(1), {}, given.active, nan, status, nan, False, False)
    state = memory.read(given.names or ())
    solved = weigh_cleared(method, given, state)
    status = status if solved.status is None else SolverStatus(int(solved.status))
    following = state if solved.state is None else solved.state
    return Weighed(solved.weights, following, given.active, nan, status, nan, False, False)


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
    values: Sequence[Tensor], weights: Sequence[float], scale: Tensor | None = None
) -> None:
    """The backward pass of `sum_i w_i loss_i` with fixed weights, without building the sum.

    Args:
        values: scalars with a graph.
        weights: `[m]`.
        scale: the factor of a GradScaler.
    """
    seeds = [torch.full_like(v, float(w)) for v, w in zip(values, weights, strict=True)]
    if scale is not None:
        seeds = [(seed.double() * scale.to(seed.device)).to(seed.dtype) for seed in seeds]
    torch.autograd.backward(list(values), grad_tensors=seeds)
