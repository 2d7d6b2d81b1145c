"""aggregate_: rows in, the direction of a gradient aggregator in `.grad` and its numbers out."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.aggregators import EntrywiseAggregator, TrackingAggregator
from moopt.aggregators.tracking import NUM_STEPS
from moopt.gradients import GradientStore, Row
from moopt.gradients.averaged import allocate_rows, stacked
from moopt.kernels.gramian import gramian as inner_products
from moopt.kernels.gramian import measured_gramian
from moopt.kernels.tolerances import DESCENT_TOL, INNER_ROUNDING
from moopt.records.result import Array
from moopt.records.status import SolverStatus
from moopt.step.method_state import REACHED_KEY, MethodState
from moopt.step.step_settings import StepSettings
from moopt.step.weigh import Weighed, above_noise_floor, unit_hull
from moopt.weightings.cleared import Mask, Step, merged, weigh_cleared
from moopt.weightings.problem import Problem


def aggregate_(
    store: GradientStore,
    given: Step,
    settings: StepSettings,
    shared: Sequence[bool],
    scale: float,
    finite_losses: bool,
) -> Weighed:
    """Combine the rows by an aggregator and add the direction to `.grad`; the rows are consumed.

    Args:
        store: at least two rows that share a parameter; one, if absent objectives count.
        given: the step, with names; its Gramian is unscaled and over the shared parameters.
        settings: with the aggregator, and what it keeps: read and written.
        shared: one flag per parameter; the others take the sum of their gradients.
        scale: the factor of a GradScaler that the rows carry; 1 without.
        finite_losses: False where a loss that was given is not finite.

    Returns:
        What the record says, with the slopes that were measured along the direction.
    """
    memory, gramian = settings.memory, given.gramian
    aggregator, parameters = memory.method, store.parameters
    assert gramian is not None
    positions = settings.positions(parameters) if settings.positions else range(len(parameters))
    chosen = [t for t, on in enumerate(shared) if on]
    reached = [t for t in chosen if any(row[t] is not None for row in store.rows.values())]
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
        active = above_noise_floor(norms, given.losses, settings.inactive_tol)
        given = dataclasses.replace(given, active=active)
        finite = bool(np.isfinite(gramian).all())
        status, stationarity = SolverStatus.NON_FINITE, math.nan
        if finite and finite_losses:
            hull, stationarity = unit_hull(gramian, norms, active)
            status = SolverStatus(int(hull.status or 0))
        if isinstance(aggregator, TrackingAggregator):
            if aggregator.combines_absent:
                known = {*memory.mapping.get(REACHED_KEY, ()), *(positions[t] for t in reached)}
                memory.mapping[REACHED_KEY] = tuple(sorted(known))
                reached = [t for t in chosen if positions[t] in known]
            direction, weights, active, ended = _averaged(
                store, aggregator, given, settings, reached, positions, scale
            )
            status = status if ended is None else SolverStatus(int(ended))
        else:
            assert isinstance(aggregator, EntrywiseAggregator)
            direction = _entrywise(store, aggregator, given, memory, reached, positions)
            weights = np.full(len(active), math.nan)
        # Measured against the whole rows, so the direction has memory of its own.
        rows = [[row[t] for t in chosen] for row in (*store.rows.values(), direction)]
        products = inner_products(rows).cpu().numpy()
        falls, norms = products[:-1, -1], np.sqrt(np.maximum(products.diagonal(), 0.0))
        slack = (DESCENT_TOL + INNER_ROUNDING) * norms[:-1] * norms[-1]
        descent = bool(((falls >= -slack) | ~active).all() and np.isfinite(falls).all())
        rises = (falls < -slack) & active
        slopes = (0.0 - falls) / scale / scale  # subtracted from 0: no -0.0
    store.write_given_direction_(direction, shared)
    return Weighed(
        weights=weights,
        active=active,
        status=status,
        stationarity=stationarity,
        descent=descent,
        slopes=slopes,
        rises=rises,
        weighted=isinstance(aggregator, TrackingAggregator),
    )


def _entrywise(
    store: GradientStore,
    aggregator: EntrywiseAggregator,
    given: Step,
    memory: MethodState,
    reached: Sequence[int],
    positions: Sequence[int],
) -> Row:
    """The direction at the positions `reached`; None elsewhere."""
    names, active = tuple(store.rows), torch.from_numpy(given.active)
    state = memory.read(names)
    direction: Row = [None] * len(store.parameters)
    for t in reached:
        column = [row[t] for row in store.rows.values()]
        zero = torch.zeros_like(next(g for g in column if g is not None))
        whole = [zero if g is None else g for g in column]
        direction[t] = aggregator(
            whole, active=active, names=names, state=state, position=positions[t]
        )
    finite = bool(np.isfinite(given.gramian).all())  # type: ignore[arg-type]
    memory.write(names, aggregator.next_state(state) if finite else state, steps=int(finite))
    return direction


def _averaged(
    store: GradientStore,
    aggregator: TrackingAggregator,
    given: Step,
    settings: StepSettings,
    reached: Sequence[int],
    positions: Sequence[int],
    scale: float,
) -> tuple[Row, Array, Mask, SolverStatus | None]:
    """Let the averaged rows follow this step's gradients, and combine them.

    Nothing is written before the weights are known: a method that raises changes nothing.

    Returns:
        The direction at the positions `reached` (None elsewhere); for the objectives of the step
        the weights, NaN where the gradients are not finite, and who is active; and how the weights
        were found, where the gradients of the step alone do not tell.
    """
    memory, names, absent = settings.memory, list(store.rows), aggregator.combines_absent
    memory.make_room(names)
    shared, numbers = [store.parameters[t] for t in reached], [positions[t] for t in reached]
    kept = allocate_rows(memory, aggregator, shared, numbers)
    # Whose rows follow the gradients, whom the method weighs, and whose rows are combined.
    updated = [n for n, on in zip(names, given.active, strict=True) if on or absent]
    weighed = memory.names if absent else names
    combined = weighed if absent else updated
    # The step counted, for methods that count.
    own = {key: value + (key == NUM_STEPS) for key, value in memory.read(updated).items()}
    before = memory.read(weighed)
    state = merged(before, own, aggregator.state_axes, _places(updated, weighed))

    assert given.gramian is not None
    assert given.losses is not None
    finite, places = bool(np.isfinite(given.gramian).all()), _places(updated, names)
    # What factors and shares are made of: the gradients, those that are zero included.
    problem = Problem.of(
        given.gramian[np.ix_(places, places)],
        losses=given.losses[places] if "losses" in aggregator.needs else None,
        names=tuple(updated),
        step=given.step,
    )
    factors = torch.from_numpy(aggregator.factors(problem) / scale)
    gradients = [store.rows[name] for name in updated]
    at: slice | Tensor = slice(None)  # without a copy if they are all
    if updated != memory.names:
        at = torch.tensor(_places(updated, memory.names))
    rows, compared = [], []
    for t, whole in zip(reached, kept, strict=True):
        terms = stacked(gradients, t, factors, whole)
        new = aggregator.follow(whole[at], terms, problem, own)
        if absent and isinstance(at, Tensor):
            new = whole.index_copy(0, at.to(whole.device), new)
        rows.append(new)
        compared.append(aggregator.compared(new, terms))
    product, noise = measured_gramian([[one[i] for one in compared] for i in range(len(combined))])

    active, places = given.active, _places(combined, weighed)
    gramian = np.zeros((len(weighed), len(weighed)))
    gramian[np.ix_(places, places)] = product.cpu().numpy()
    if absent:
        norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
        active = above_noise_floor(norms, None, settings.inactive_tol)
        given = dataclasses.replace(given, losses=None)
    step = dataclasses.replace(
        given, gramian=gramian, active=active, names=tuple(weighed), noise=noise
    )
    solved = weigh_cleared(aggregator, step, state)
    finite &= bool(np.isfinite(gramian).all()) and solved.status != SolverStatus.NON_FINITE
    weights = solved.weights if finite else np.full(len(weighed), math.nan)

    outer = torch.from_numpy(weights[places] * scale)
    direction: Row = [None] * len(store.parameters)
    for t, whole, new in zip(reached, kept, rows, strict=True):
        terms = stacked(gradients, t, factors, whole) if aggregator.combines_gradients else new
        total = torch.tensordot(outer.to(terms), terms, 1)
        direction[t] = total.to(store.parameters[t].dtype)
        if finite:
            whole[slice(None) if absent else at] = new
    memory.write(weighed, (solved.state or {}) if finite else before, steps=int(finite))
    # A single gradient that is zero says nothing about the objectives that are not known yet.
    ended = solved.status if len(weighed) > 1 else SolverStatus.CONVERGED
    ended = ended if finite else SolverStatus.NON_FINITE
    places = _places(names, weighed)
    return direction, weights[places], active[places], ended if absent else None


def _places(names: Sequence[str], among: Sequence[str]) -> NDArray[np.intp]:
    return np.array([among.index(name) for name in names], dtype=np.intp)
