"""combine_rows_: recorded rows in, direction in `.grad` and a StepRecord out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.aggregators.base import Method
from moopt.gradients import GradientStore
from moopt.gradients.replicas import mean_over_processes, refuse_unsynchronised
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import Scalarization
from moopt.step.aggregate import aggregate_rows_
from moopt.step.method_state import STEP_KEY, gather, is_stateful, scatter
from moopt.step.weigh import CertifiedWeights, certified_weights
from moopt.weightings import Constant


def combine_rows_(
    store: GradientStore,
    losses: Mapping[str, Tensor | None],
    weighting: Method,
    bank: MutableMapping[str, Any],
    *,
    shared: Collection[int] | None,
    inactive_tol: float,
    scale: Tensor | None = None,
    lr: float | None = None,
    step: int = 0,
    checked: Counter[tuple[str, ...]] | None = None,
    positions: Sequence[int] | None = None,
) -> StepRecord:
    """Combine the rows of `store` into a direction and add it to `.grad`; the rows are consumed.

    Args:
        store: one row per objective; on return it is empty.
        losses: the unscaled loss of each objective, None where the caller gave none.
        weighting: the method, a weighting or a gradient aggregator.
        bank: where the weighting's state lives, by objective name.
        shared: `id`s of the parameters that enter the Gramian; None for the default rule. The
            others take their gradients unweighted, except under a scalarization, which weighs
            every parameter.
        inactive_tol: relative noise floor of a gradient.
        scale: the factor of a GradScaler that the rows carry; what the weighting sees is
            unscaled, what lands in `.grad` keeps the factor.
        lr: learning rate, for weightings that use it.
        step: number of combined steps before this one.
        checked: for `refuse_unsynchronised`; None compares no processes and averages no losses.
        positions: the number of each of the store's parameters among all of the optimizer's, by
            which tracked rows are kept; None where the store holds them all.

    Raises:
        ValueError: the weighting needs losses and one is missing, uses no auxiliary rows and there
            are some, or asks for ascent on parameters that take their gradients unweighted.
        RuntimeError: the processes hold different gradients.
    """
    names, auxiliary = tuple(store.rows), tuple(store.auxiliary)
    m = len(names)
    refuse_unused(weighting, auxiliary)
    missing = [name for name in names if losses.get(name) is None]
    if missing and "losses" in weighting.needs:
        raise ValueError(
            f"{type(weighting).__name__} needs the value of every loss; none was given for"
            f" {', '.join(map(repr, missing))}. Pass it: optimizer.objective(name, loss)."
        )
    remembers = isinstance(weighting, TrackingAggregator) and weighting.combines_absent
    if remembers and shared is None:  # which ones the absent objectives reach is not known here
        shared = {id(parameter) for parameter in store.parameters}
    flags = store.shared(shared)
    gramian = store.gramian(flags)
    if scale is not None:
        gramian = gramian / scale.to(gramian.device, torch.float64).square()
    if checked is not None:
        refuse_unsynchronised(gramian, names + auxiliary, checked)
    nan = torch.full((), float("nan"), dtype=torch.float64, device=gramian.device)
    values = [losses.get(name) for name in names]
    stacked = torch.stack([nan if v is None else v.to(nan) for v in values])
    seen = stacked
    if checked is not None and "losses" in weighting.needs:
        seen = mean_over_processes(stacked)
    statistics = StepStatistics(
        gramian=gramian,
        losses=seen if "losses" in weighting.needs else None,
        names=names,
        auxiliary=auxiliary,
        lr=lr,
        step=bank.get(STEP_KEY, step),
    )
    _refuse_ascent(weighting, names, store.unweighted(flags))
    everywhere = isinstance(weighting, Scalarization)
    combines_auxiliary = bool(auxiliary) and weighting.combines_auxiliary
    alone = m == 1 and not combines_auxiliary and not remembers
    if alone or not (everywhere or any(flags)):
        certified = _unweighted(gramian[:m, :m])
    elif isinstance(weighting, GradientAggregator):
        direction, record = aggregate_rows_(
            store,
            weighting,
            statistics,
            bank,
            flags,
            inactive_tol=inactive_tol,
            positions=range(len(flags)) if positions is None else positions,
            scale=scale,
        )
        _add_to_grad_(list(store.parameters), direction)
        return dataclasses.replace(record, losses=stacked, step=step)
    else:
        state = None
        if is_stateful(weighting):
            state = gather(bank, weighting, names, gramian.device)
        certified = certified_weights(
            statistics,
            weighting,
            state,
            inactive_tol=inactive_tol,
            eps=store.accumulation_eps(),
        )
        if is_stateful(weighting):
            scatter(bank, weighting, names, certified.state)

    weights = certified.weights
    slopes = 0.0 - (gramian @ weights)[:m] if combines_auxiliary else None
    used = weights if combines_auxiliary else weights[:m]
    write_direction_(store, used, [everywhere or on for on in flags])
    return StepRecord(
        names=names,
        losses=stacked,
        weights=weights[:m],
        gramian=gramian[:m, :m],
        active=certified.active,
        stationarity_value=certified.stationarity,
        status_code=certified.status,
        gap=certified.gap,
        descent=certified.descent,
        fell_back=certified.fell_back,
        fallbacks=certified.fell_back.long(),
        step=step,
        slopes=slopes,
    )


def write_direction_(store: GradientStore, weights: Tensor, shared: Sequence[bool]) -> None:
    """Add the direction to `.grad` of every parameter; the rows are consumed."""
    _add_to_grad_(list(store.parameters), store.combine_(weights, shared))


def _add_to_grad_(parameters: Sequence[Tensor], direction: Sequence[Tensor | None]) -> None:
    for p, d in zip(parameters, direction, strict=True):
        if d is None:
            continue
        if p.grad is None:
            p.grad = d
        else:
            p.grad.add_(d)


def refuse_unused(weighting: Method, auxiliary: Sequence[str]) -> None:
    """Rows that cost a backward pass each and that the method never looks at are a mistake."""
    if auxiliary and "auxiliary" not in weighting.needs:
        raise ValueError(
            f"{type(weighting).__name__} as configured uses no auxiliary rows; got"
            f" {', '.join(map(repr, auxiliary))}. Record them as objectives, or leave them out."
        )


def _refuse_ascent(weighting: Method, names: tuple[str, ...], unweighted: int) -> None:
    """A constant negative weight would turn into descent wherever gradients go unweighted."""
    if not isinstance(weighting, Constant) or not weighting.has_negative:
        return
    if len(names) == 1 or unweighted:
        raise ValueError(
            "Constant with a negative weight needs every objective in every step and every"
            f" parameter in `shared`; got {len(names)} objective(s) and {unweighted} parameters"
            " outside. Pass shared=model.parameters(), or negate the loss instead of its weight."
        )


def _unweighted(gramian: Tensor) -> CertifiedWeights:
    """Weight one for each: a single objective, or objectives that share no parameter."""
    m = gramian.shape[-1]
    finite = torch.isfinite(gramian).all()
    nan = torch.full((), float("nan"), dtype=torch.float64, device=gramian.device)
    alone = m == 1
    converged = torch.full((), int(SolverStatus.CONVERGED), device=gramian.device)
    return CertifiedWeights(
        weights=gramian.new_ones(m),
        state={},
        active=torch.ones(m, dtype=torch.bool, device=gramian.device),
        stationarity=(gramian[0, 0] > 0).to(torch.float64) if alone else nan,
        status=torch.where(finite, converged, int(SolverStatus.NON_FINITE)),
        gap=nan if not alone else torch.zeros_like(nan),
        descent=finite,
        fell_back=torch.zeros_like(finite),
    )
