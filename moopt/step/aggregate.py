"""aggregate_rows_: rows in, the direction of a gradient aggregator and its record out."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.aggregators import EntrywiseAggregator, GradientAggregator, TrackingAggregator
from moopt.gradients import GradientStore
from moopt.gradients.store import Row
from moopt.kernels.gramian import gramian as inner_products
from moopt.records.step_record import StepRecord
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import stationarity
from moopt.step.method_state import REACHED_KEY, gather, is_stateful, scatter
from moopt.step.tracked_rows import tracked_direction
from moopt.step.weigh import DESCENT_TOL, ROUNDING, above_noise_floor


def aggregate_rows_(
    store: GradientStore,
    aggregator: GradientAggregator,
    statistics: StepStatistics,
    bank: MutableMapping[str, Any],
    shared: Sequence[bool],
    *,
    inactive_tol: float,
    positions: Sequence[int],
    scale: Tensor | None = None,
) -> tuple[Row, StepRecord]:
    """Combine the rows by an aggregator; the rows are consumed.

    The direction gets memory of its own, one gradient more than a weighting needs, because
    `g_i . d` is measured against the whole rows afterwards.

    Args:
        store: at least two rows that share a parameter; one, if absent objectives count.
        aggregator: the method.
        statistics: of the step, its Gramian over the shared parameters.
        bank: where the aggregator's state lives, by objective name.
        shared: one flag per parameter; the others take the sum of their gradients.
        inactive_tol: relative noise floor of a gradient.
        positions: the number of each parameter among all of the optimizer's.
        scale: the factor of a GradScaler that the rows carry.

    Returns:
        The direction, one entry per parameter, and the record without losses and step.
    """
    gramian, names = statistics.gramian, tuple(store.rows)
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    active = above_noise_floor(norms, inactive_tol)
    statistics = dataclasses.replace(statistics, active=active)
    rows = list(store.rows.values())
    reached = [t for t, on in enumerate(shared) if on and any(row[t] is not None for row in rows)]
    if isinstance(aggregator, TrackingAggregator) and aggregator.combines_absent:
        # Not those with a row: `objectives=` allocates it for parameters that no loss reaches.
        known = {*bank.get(REACHED_KEY, ()), *(positions[t] for t in reached)}
        reached = [t for t, on in enumerate(shared) if on and positions[t] in known]
        bank[REACHED_KEY] = tuple(sorted(known))
    if isinstance(aggregator, TrackingAggregator):
        direction, weights, active = tracked_direction(
            store,
            aggregator,
            statistics,
            bank,
            reached,
            positions=positions,
            inactive_tol=inactive_tol,
            scale=scale,
        )
    else:
        assert isinstance(aggregator, EntrywiseAggregator)
        direction = _entry_by_entry(store, aggregator, statistics, bank, reached)
        weights = torch.full_like(norms, float("nan"))

    chosen = [t for t, on in enumerate(shared) if on]
    products = inner_products([[row[t] for t in chosen] for row in (*rows, direction)])
    # Subtracted from zero, since `-falls` would turn 0 into -0.
    falls, length = products[:-1, -1], products[-1, -1].clamp_min(0.0).sqrt()
    slopes = 0.0 - falls
    slack = (DESCENT_TOL + ROUNDING) * products.diagonal()[:-1].clamp_min(0.0).sqrt() * length
    lowers = (falls >= -slack) | ~active
    distance, unit = stationarity(gramian, active=active)
    for row in rows:
        for t in chosen:
            row[t] = None
    alone = store.combine_(torch.ones_like(norms), [False] * len(store.parameters))
    for t in chosen:
        alone[t] = direction[t]
    return alone, StepRecord(
        names=names,
        weights=weights,
        gramian=gramian,
        active=active,
        stationarity_value=distance,
        status_code=unit.status,
        gap=torch.full_like(distance, float("nan")),
        descent=lowers.all() & torch.isfinite(slopes).all(),
        fell_back=torch.zeros_like(distance, dtype=torch.bool),
        fallbacks=torch.zeros_like(distance, dtype=torch.int64),
        slopes=slopes if scale is None else slopes / scale.to(slopes).square(),
        weighted=isinstance(aggregator, TrackingAggregator),
    )


def _entry_by_entry(
    store: GradientStore,
    aggregator: EntrywiseAggregator,
    statistics: StepStatistics,
    bank: MutableMapping[str, Any],
    reached: Sequence[int],
) -> Row:
    """The direction at the positions in `reached`; None elsewhere."""
    names, device = tuple(store.rows), statistics.gramian.device
    finite = torch.isfinite(statistics.gramian).all()
    state = gather(bank, aggregator, names, device) if is_stateful(aggregator) else {}
    direction: Row = [None] * len(store.parameters)
    for t in reached:
        column = [row[t] for row in store.rows.values()]
        like = next(gradient for gradient in column if gradient is not None)
        whole = [torch.zeros_like(like) if g is None else g for g in column]
        direction[t] = aggregator(
            whole, active=statistics.active, names=names, state=state, position=t
        )
    if is_stateful(aggregator):
        following = aggregator.next_state(state)
        kept = {key: torch.where(finite, following[key], state[key]) for key in state}
        scatter(bank, aggregator, names, kept)
    return direction
