"""aggregate_rows_: rows in, the direction of a gradient aggregator in `.grad`, and its record."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from moopt.aggregators import GradientAggregator
from moopt.certified_weights import DESCENT_TOL, ROUNDING, above_noise_floor
from moopt.gradients import GradientStore
from moopt.gradients.store import Row
from moopt.kernels.gramian import gramian as inner_products
from moopt.record import StepRecord, StepStatistics
from moopt.solvers import stationarity
from moopt.state_by_name import gather, is_stateful, scatter


def aggregate_rows_(
    store: GradientStore,
    aggregator: GradientAggregator,
    statistics: StepStatistics,
    bank: MutableMapping[str, Any],
    shared: Sequence[bool],
    *,
    inactive_tol: float,
) -> tuple[Row, StepRecord]:
    """Combine the rows entry by entry; the rows are consumed.

    The direction gets memory of its own, one gradient more than a weighting needs, because
    `g_i . d` is measured against the whole rows afterwards.

    Args:
        store: at least two rows that share a parameter.
        aggregator: the method.
        statistics: of the step, its Gramian over the shared parameters.
        bank: where the aggregator's state lives, by objective name.
        shared: one flag per parameter; the others take the sum of their gradients.
        inactive_tol: relative noise floor of a gradient.

    Returns:
        The direction, one entry per parameter, and the record without losses, step and scale.
    """
    gramian, names = statistics.gramian, tuple(store.rows)
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    active = above_noise_floor(norms, inactive_tol)
    finite = torch.isfinite(gramian).all()
    state = gather(bank, aggregator, names, gramian.device) if is_stateful(aggregator) else {}
    rows = list(store.rows.values())
    direction: Row = [None] * len(store.parameters)
    for t, on in enumerate(shared):
        column = [row[t] for row in rows]
        like = next((gradient for gradient in column if gradient is not None), None)
        if not on or like is None:
            continue
        whole = [torch.zeros_like(like) if g is None else g for g in column]
        direction[t] = aggregator(whole, active=active, names=names, state=state, position=t)
    if is_stateful(aggregator):
        following = aggregator.next_state(state)
        kept = {key: torch.where(finite, following[key], state[key]) for key in state}
        scatter(bank, aggregator, names, kept)

    chosen = [t for t, on in enumerate(shared) if on]
    products = inner_products([[row[t] for t in chosen] for row in (*rows, direction)])
    slopes, length = products[:-1, -1], products[-1, -1].clamp_min(0.0).sqrt()
    slack = (DESCENT_TOL + ROUNDING) * products.diagonal()[:-1].clamp_min(0.0).sqrt() * length
    lowers = (slopes >= -slack) | ~active
    distance, unit = stationarity(gramian, active=active)
    unknown = torch.full_like(distance, float("nan"))
    for row in rows:
        for t in chosen:
            row[t] = None
    alone = store.combine_(torch.ones_like(norms), [False] * len(store.parameters))
    for t in chosen:
        alone[t] = direction[t]
    return alone, StepRecord(
        names=names,
        weights=torch.full_like(norms, float("nan")),
        gramian=gramian,
        active=active,
        stationarity_value=distance,
        status_code=unit.status,
        gap=unknown,
        descent=lowers.all() & torch.isfinite(slopes).all(),
        fell_back=torch.zeros_like(finite),
        fallbacks=torch.zeros_like(finite, dtype=torch.int64),
        slopes=slopes,
        weighted=False,
    )
