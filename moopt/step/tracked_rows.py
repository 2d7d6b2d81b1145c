"""tracked_rows: a row per objective for every parameter, kept from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moopt.aggregators import TrackingAggregator
from moopt.gradients import GradientStore
from moopt.gradients.store import Row
from moopt.kernels.gramian import gramian
from moopt.records.step_statistics import StepStatistics
from moopt.step.method_state import NAMES_KEY, gather, position_tensor, rows_key, scatter
from moopt.step.weigh import above_noise_floor


def enrol_rows(
    bank: MutableMapping[str, Any],
    aggregator: TrackingAggregator,
    parameters: Sequence[Tensor],
    positions: Sequence[int],
) -> list[Tensor]:
    """The rows `[number of enrolled objectives, ...]` of each parameter; new ones are zero.

    Args:
        bank: where `state_by_name.enrol` enrolled the objectives.
        aggregator: the method.
        parameters: real floating point.
        positions: the number of each parameter among all of the optimizer's.

    Raises:
        ValueError: a row in the bank has another shape than its parameter.
        TypeError: a parameter is complex.
    """
    count, out = len(bank[NAMES_KEY]), []
    for parameter, position in zip(parameters, positions, strict=True):
        if parameter.is_complex():
            raise TypeError(
                f"`{aggregator.name}` tracks real gradients; got a parameter of"
                f" {parameter.dtype}. Use a weighting, which works with every dtype."
            )
        key = rows_key(aggregator, position)
        rows = bank.get(key)
        if rows is None:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            rows = torch.zeros(0, *parameter.shape, dtype=dtype, device=parameter.device)
        if rows.shape[1:] != parameter.shape:
            raise ValueError(
                f"the tracked rows of parameter {position} have shape {list(rows.shape[1:])}; the"
                f" parameter has {list(parameter.shape)}. Load the state dict of this model."
            )
        rows = rows.to(parameter.device)
        if len(rows) < count:
            rows = torch.cat([rows, rows.new_zeros(count - len(rows), *parameter.shape)])
        bank[key] = rows
        out.append(rows)
    return out


class _Followed(NamedTuple):
    """What one parameter contributes: the rows to combine, and its share of the summary."""

    combined: Tensor
    share: Tensor | None


def tracked_direction(
    store: GradientStore,
    aggregator: TrackingAggregator,
    statistics: StepStatistics,
    bank: MutableMapping[str, Any],
    chosen: Sequence[int],
    *,
    positions: Sequence[int],
    inactive_tol: float,
    scale: Tensor | None = None,
) -> tuple[Row, Tensor, Tensor]:
    """Let the rows follow this step's gradients, and combine.

    Args:
        store: the step's gradients; they stay as they are.
        aggregator: the method.
        statistics: of the step, with `names` and `active`.
        bank: where the method's state lives; its rows are written in place.
        chosen: the positions in `store.parameters` that take part.
        positions: the number of each of `store.parameters` among all of the optimizer's.
        inactive_tol: relative noise floor of the rows, where those of absent objectives count.
        scale: the factor of a GradScaler that the gradients carry, and the direction shall.

    Returns:
        The direction at `chosen` (None elsewhere) and the weights of the step's objectives, NaN
        where the gradients are not finite; and which of the objectives are active.
    """
    names, products = tuple(store.rows), statistics.gramian
    state = gather(bank, aggregator, names, products.device)
    finite = torch.isfinite(products).all()
    assert statistics.active is not None
    active, absent = statistics.active, aggregator.combines_absent
    if "losses" in aggregator.needs and statistics.losses is not None:
        finite = finite & (torch.isfinite(statistics.losses) | ~active).all()
    factors = aggregator.factors(statistics)
    factors = factors if scale is None else factors / scale.to(factors)
    # Rows that are combined are kept until then anyway: a weighting that raises changes nothing.
    followed, written = [], []
    wholes = enrol_rows(
        bank, aggregator, [store.parameters[t] for t in chosen], [positions[t] for t in chosen]
    )
    roster = [bank[NAMES_KEY].index(name) for name in names]
    for t, whole in zip(chosen, wholes, strict=True):
        index = position_tensor(roster, whole.device)
        gradients = _stacked(store, t, whole)
        rows = whole.index_select(0, index) if roster != list(range(len(whole))) else whole
        column = (len(names), *[1] * (whole.dim() - 1))
        new, share = aggregator.follow(
            rows, gradients * factors.to(whole).reshape(column), statistics, state
        )
        # A row that counts while its objective is absent must not stay while it goes to zero.
        kept = ((active | absent) & finite).to(whole.device).reshape(column)
        new = torch.where(kept, new, rows)
        if aggregator.combines_tracked:
            written.append((whole, index, new))
        else:
            whole.index_copy_(0, index, new)
        combined = new if aggregator.combines_tracked else gradients
        combined = whole.index_copy(0, index, new) if absent else combined
        followed.append(_Followed(combined, None if share is None else share.to(products)))

    if aggregator.combines_tracked:
        count = len(bank[NAMES_KEY]) if absent else len(names)
        summary = gramian([[f.combined[i] for f in followed] for i in range(count)])
    else:
        summary = torch.stack([f.share for f in followed if f.share is not None]).sum(0)
    summary = summary.to(products)
    if absent:
        present = position_tensor(roster, products.device)
        weighed, following, active = _weigh_everyone(
            aggregator, summary, statistics, bank, present, inactive_tol
        )
        weights = weighed.index_select(0, present)
    else:
        weighed, following = aggregator.weigh(summary, statistics, state)
        weights = weighed
    for whole, index, new in written:
        whole.index_copy_(0, index, new)
    kept_state = {key: torch.where(finite, following[key], state[key]) for key in state}
    scatter(bank, aggregator, names, kept_state)

    direction: Row = [None] * len(store.parameters)
    outer = torch.where(finite, weighed, float("nan"))
    outer = outer if scale is None or not aggregator.combines_tracked else outer * scale
    for t, (combined, _) in zip(chosen, followed, strict=True):
        entries = (row[t] for row in store.rows.values())
        like = next((g for g in entries if g is not None), store.parameters[t])
        direction[t] = torch.tensordot(outer.to(combined), combined, 1).to(like.dtype)
    return direction, torch.where(finite, weights, float("nan")), active


def _weigh_everyone(
    aggregator: TrackingAggregator,
    summary: Tensor,
    statistics: StepStatistics,
    bank: MutableMapping[str, Any],
    present: Tensor,
    inactive_tol: float,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Weights of every objective that was ever given; next state and activity of the present."""
    everyone = tuple(bank[NAMES_KEY])
    active = above_noise_floor(summary.diagonal().clamp_min(0.0).sqrt(), inactive_tol)
    statistics = dataclasses.replace(
        statistics, gramian=summary, losses=None, names=everyone, active=active
    )
    state = gather(bank, aggregator, everyone, summary.device)
    weights, following = aggregator.weigh(summary, statistics, state)
    for key, axes in aggregator.state_axes.items():
        for axis in range(axes):
            following[key] = following[key].index_select(axis, present)
    return weights, following, active.index_select(0, present)


def _stacked(store: GradientStore, t: int, like: Tensor) -> Tensor:
    """`[m, ...]`, the gradients of one parameter in the rows' dtype; 0 where there is none."""
    zero = like.new_zeros(like.shape[1:])
    column = [row[t] for row in store.rows.values()]
    return torch.stack([zero if g is None else g.detach().to(like.dtype) for g in column])
