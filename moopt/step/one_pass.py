"""single_backward_: weigh the losses first, then one backward pass of their weighted sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from moopt.aggregators.base import Method
from moopt.gradients.replicas import (
    is_checked_step,
    is_sharded,
    mean_over_processes,
    refuse_other_gradients,
    refuse_other_names,
)
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import Scalarization
from moopt.step.differentiate import scale_of
from moopt.step.method_state import STEP_KEY, gather, is_stateful, scatter
from moopt.weightings import Sum

if TYPE_CHECKING:
    from torch.amp import GradScaler


def one_pass_is_enough(
    weighting: Method, *, recorded: bool = True
) -> TypeGuard[Scalarization | Sum]:
    """Whether the weights need no gradient: a scalarization, or `Sum` in a step without record."""
    return isinstance(weighting, Scalarization) or (isinstance(weighting, Sum) and not recorded)


def single_backward_(
    names: tuple[str, ...],
    values: Sequence[Tensor],
    weighting: Scalarization | Sum,
    bank: MutableMapping[str, Any],
    parameters: Sequence[Tensor],
    *,
    scaler: GradScaler | None = None,
    lr: float | None = None,
    step: int = 0,
    checked: Counter[tuple[str, ...]] | None = None,
) -> StepRecord:
    """One backward pass of `sum_i w_i loss_i` with fixed weights, added to every `.grad`.

    As after `loss.backward()`: what a wrapper does to gradients happens once, all parameters take
    the weighted sum, and a pass that fails may leave a part of it in `.grad`.

    Args:
        names: of the objectives.
        values: their unscaled losses, scalars with a graph.
        weighting: one that looks at the losses only, or at nothing.
        bank: where the weighting's state lives, by objective name.
        parameters: those of the optimizer.
        scaler: the pass runs scaled; the weights are those without a scaler.
        lr: learning rate, for weightings that use it.
        step: number of combined steps before this one.
        checked: for `is_checked_step`; None compares no processes and averages no losses.

    Returns:
        A record that is not `measured`: losses and weights, and NaN for what compares gradients.

    Raises:
        ValueError: no loss reaches a parameter.
        RuntimeError: the processes hold different objectives or gradients.
    """
    device = values[0].device
    m = len(names)
    losses = torch.stack([value.detach().to(device, torch.float64) for value in values])
    nan = torch.full((m, m), float("nan"), dtype=torch.float64, device=device)
    averaged = checked is not None and "losses" in weighting.needs
    compared = checked is not None and is_checked_step(names, checked)
    if compared:
        refuse_other_names(names, device)
    statistics = StepStatistics(
        gramian=nan,
        losses=mean_over_processes(losses) if averaged else losses,
        names=names,
        lr=lr,
        step=bank.get(STEP_KEY, step),
    )
    finite = torch.isfinite(losses).all()
    status = torch.where(finite, int(SolverStatus.CONVERGED), int(SolverStatus.NON_FINITE))
    if m == 1:
        weights = torch.ones_like(losses)
    else:
        state = gather(bank, weighting, names, device) if is_stateful(weighting) else None
        output = weighting(statistics, state)
        weights = output.weights
        status = status if output.result is None else output.result.status
    weighted_backward_(values, weights, scale_of(scaler, values[0]))
    if all(p.grad is None for p in parameters):
        raise ValueError(
            "no loss reaches a parameter of the optimizer, so there is nothing to step along. Build"
            " the optimizer from the parameters of the model that computes the losses."
        )
    if compared:
        _refuse_drifting(parameters)
    if m > 1 and is_stateful(weighting):  # only now: a pass that failed was no step
        scatter(bank, weighting, names, output.state)
    unknown = torch.full((), float("nan"), dtype=torch.float64, device=device)
    return StepRecord(
        names=names,
        losses=losses,
        weights=weights,
        gramian=nan,
        active=torch.ones(m, dtype=torch.bool, device=device),
        stationarity_value=unknown,
        status_code=status,
        gap=unknown,
        descent=torch.zeros((), dtype=torch.bool, device=device),
        fell_back=torch.zeros((), dtype=torch.bool, device=device),
        fallbacks=torch.zeros((), dtype=torch.int64, device=device),
        step=step,
        measured=False,
    )


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
    values: Sequence[Tensor], weights: Tensor, scale: Tensor | None = None
) -> None:
    """The backward pass of `sum_i w_i loss_i` with fixed weights, without building the sum.

    Args:
        values: scalars with a graph.
        weights: float64 `[m]`.
        scale: the factor of a GradScaler.
    """
    factors = weights if scale is None else weights * scale.to(weights)
    seeds = [factors[i].to(value) for i, value in enumerate(values)]
    torch.autograd.backward(list(values), grad_tensors=seeds)
