"""take_step: the whole flow of one step. Rows in, a direction in `.grad` and a record out."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from moopt.aggregators import EntrywiseAggregator, GradientAggregator, TrackingAggregator
from moopt.gradients import GradientStore
from moopt.gradients.replicas import has_replicas, mean_over_processes
from moopt.records.result import Array
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.scalarizations import Scalarization
from moopt.step.aggregate import aggregate_
from moopt.step.leave_out import leave_out_non_finite_
from moopt.step.method_state import Method, MethodState
from moopt.step.weigh import Weighed, above_noise_floor, unit_hull, weigh
from moopt.weightings import Constant
from moopt.weightings.cleared import Step


def take_step(
    store: GradientStore,
    method: Method,
    memory: MethodState,
    *,
    shared: Collection[int] | None,
    inactive_tol: float,
    scale: Tensor | None = None,
    lr: float | None = None,
    step: int = 0,
    checked: Counter[tuple[str, ...]] | None = None,
    positions: Callable[[Sequence[Tensor]], Sequence[int]] | None = None,
    skip_non_finite: bool = False,
) -> StepRecord:
    """Combine the rows of `store` into a direction and add it to `.grad`; the rows are consumed.

    Args:
        store: one row per objective, with the losses; on return it is empty.
        method: a weighting, scalarization or gradient aggregator.
        memory: what the method keeps from step to step; read once and written once.
        shared: `id`s of the parameters that enter the Gramian; None for the default rule. The
            others take their gradients unweighted, except under a scalarization, which weighs
            every parameter.
        inactive_tol: relative noise floor of a gradient.
        scale: the factor of a GradScaler that the rows carry; what the method sees is unscaled,
            what lands in `.grad` keeps the factor.
        lr: learning rate, for methods that use it.
        step: number of combined steps before this one.
        checked: for `store.check_replicas`; None compares no processes and averages no losses.
        positions: the numbers of the store's parameters among all of the optimizer's; None if the
            store holds them all.
        skip_non_finite: leave out objectives whose loss or gradient is not finite.

    Raises:
        ValueError: the method needs losses and one is missing, uses no auxiliary rows and there
            are some, or asks for ascent on parameters that take their gradients unweighted.
        RuntimeError: the processes hold different gradients.
    """
    left_out: tuple[str, ...] = ()
    if skip_non_finite:
        left_out = leave_out_non_finite_(store, replicas=checked is not None)
    names, auxiliary = tuple(store.rows), tuple(store.auxiliary)
    remembers = isinstance(method, TrackingAggregator) and method.combines_absent
    if remembers and shared is None:  # which ones the absent objectives reach is not known here
        shared = {id(parameter) for parameter in store.parameters}
    needs = method.needs
    flags = store.shared(shared)
    unknown = any(loss is None for loss in store.losses.values())
    if auxiliary or unknown or isinstance(method, Constant):
        refuse_unfit(method, store, flags, needs)

    gramian = store.gramian(flags)
    if checked is not None and has_replicas():
        store.check_replicas(gramian, flags, checked)
    products, losses, factor = _on_host(gramian, list(store.losses.values()), scale)
    averaged = losses
    if checked is not None and has_replicas():  # they decide who is active, and what is finite
        local = torch.from_numpy(losses).to(gramian.device)
        averaged = mean_over_processes(local).cpu().numpy()
    finite_losses = bool(np.isfinite(averaged).all()) or _all_finite(store, averaged)
    given = Step(
        gramian=products,
        active=np.ones(len(names), dtype=bool),
        losses=averaged,
        names=names,
        auxiliary=auxiliary,
        noise=store.noise,
        lr=lr,
        step=memory.step(step),
    )
    everywhere = isinstance(method, Scalarization)
    combines_auxiliary = bool(auxiliary) and method.combines_auxiliary
    alone = len(names) == 1 and not combines_auxiliary and not remembers
    slopes = None
    if alone or not (everywhere or any(flags)):
        found = unweighted(products[: len(names), : len(names)], finite_losses)
    elif isinstance(method, GradientAggregator):
        everyone = range(len(flags)) if positions is None else positions(store.parameters)
        found, slopes = _aggregated(
            store, method, given, memory, flags, inactive_tol, everyone, factor, finite_losses
        )
    else:
        found = weigh(
            method,
            given,
            memory.read(names),
            inactive_tol=inactive_tol,
            eps=store.accumulation_eps(),
            finite_losses=finite_losses,
        )
        memory.write(names, found.state)
    m = len(names)
    if store.rows:
        used = found.weights if combines_auxiliary else found.weights[:m]
        if combines_auxiliary:
            slopes = 0.0 - (products @ found.weights)[:m]  # subtracted from 0: no -0.0
        store.write_direction_(used, flags, everywhere=everywhere)
    weighted = not isinstance(method, EntrywiseAggregator) or slopes is None
    return record_of(
        found, names, losses, products[:m, :m], step, slopes, left_out, weighted=weighted
    )


def record_of(
    found: Weighed,
    names: tuple[str, ...],
    losses: Array,
    gramian: Array,
    step: int,
    slopes: Array | None = None,
    left_out: tuple[str, ...] = (),
    *,
    measured: bool = True,
    weighted: bool = True,
) -> StepRecord:
    """The record of a step: the one place that makes one."""
    return StepRecord(
        names=names,
        losses=torch.from_numpy(losses),
        weights=torch.from_numpy(found.weights[: len(names)]),
        gramian=torch.from_numpy(gramian),
        active=torch.from_numpy(found.active),
        stationarity=found.stationarity,
        status=found.status,
        gap=found.gap,
        descent=found.descent,
        fell_back=found.fell_back,
        fallbacks=int(found.fell_back),
        left_out=left_out,
        skipped=len(left_out),
        step=step,
        measured=measured,
        slopes=None if slopes is None else torch.from_numpy(slopes),
        weighted=weighted,
    )


def _aggregated(
    store: GradientStore,
    method: GradientAggregator,
    given: Step,
    memory: MethodState,
    shared: Sequence[bool],
    inactive_tol: float,
    positions: Sequence[int],
    scale: float,
    finite_losses: bool,
) -> tuple[Weighed, Array]:
    """What the record says of an aggregator's step, and the slopes that were measured."""
    gramian = given.gramian
    assert gramian is not None
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.maximum(gramian.diagonal(), 0.0))
        active = above_noise_floor(norms, given.losses, inactive_tol)
        finite = finite_losses and bool(np.isfinite(gramian).all())
        hull, stationarity = unit_hull(gramian, norms, active) if finite else (None, math.nan)
    done = aggregate_(
        store,
        method,
        dataclasses.replace(given, active=active),
        memory,
        shared,
        positions=positions,
        scale=scale,
        inactive_tol=inactive_tol,
    )
    status = SolverStatus.NON_FINITE if hull is None else SolverStatus(int(hull.status or 0))
    nothing = np.full(len(active), math.nan)
    found = Weighed(
        weights=nothing if done.weights is None else done.weights,
        state={},
        active=done.active,
        stationarity=stationarity,
        status=status if done.status is None else SolverStatus(int(done.status)),
        gap=math.nan,
        descent=done.descent,
        fell_back=False,
    )
    return found, done.slopes


def unweighted(gramian: Array, finite_losses: bool) -> Weighed:
    """Weight one for each: a single objective, or objectives that share no parameter."""
    m = len(gramian)
    finite = finite_losses and bool(np.isfinite(gramian).all())
    alone = m == 1
    return Weighed(
        weights=np.ones(m),
        state={},
        active=np.ones(m, dtype=bool),
        stationarity=float(gramian[0, 0] > 0.0) if alone else math.nan,
        status=SolverStatus.CONVERGED if finite else SolverStatus.NON_FINITE,
        gap=0.0 if alone else math.nan,
        descent=finite,
        fell_back=False,
    )


def refuse_unfit(
    method: Method, store: GradientStore, shared: Sequence[bool], needs: frozenset[str]
) -> None:
    """Raise where the method cannot work on the rows of `store`.

    Raises:
        ValueError: it needs losses and one is missing, it never looks at auxiliary rows and there
            are some, or a constant negative weight would turn into descent wherever gradients go
            unweighted.
    """
    missing = [key for key, loss in store.losses.items() if loss is None]
    if "losses" in needs and missing:
        raise ValueError(
            f"{type(method).__name__} needs the value of every loss; none was given for"
            f" {', '.join(map(repr, missing))}. Pass it: optimizer.objective(name, loss)."
        )
    if store.auxiliary:
        refuse_unused(method, store.auxiliary)
    if isinstance(method, Constant) and method.has_negative:
        outside = store.unweighted(shared)
        if len(store.rows) == 1 or outside:
            raise ValueError(
                "Constant with a negative weight needs every objective in every step and every"
                f" parameter in `shared`; got {len(store.rows)} objective(s) and {outside}"
                " parameters outside. Pass shared=model.parameters(), or negate the loss instead of"
                " its weight."
            )


def refuse_unused(method: Method, auxiliary: Collection[str]) -> None:
    """Raise for rows that the method never looks at: each cost a backward pass."""
    if auxiliary and "auxiliary" not in method.needs:
        raise ValueError(
            f"{type(method).__name__} as configured uses no auxiliary rows; got"
            f" {', '.join(map(repr, auxiliary))}. Record them as objectives, or leave them out."
        )


def _on_host(
    gramian: Tensor, losses: Sequence[Tensor | None], scale: Tensor | None
) -> tuple[Array, Array, float]:
    """Read the unscaled Gramian, the losses (NaN for None) and the factor, in one copy."""
    if gramian.is_cpu:
        products: Array = gramian.numpy()
        numbers: Array = np.array([math.nan if v is None else float(v) for v in losses])
        factor = 1.0 if scale is None else float(scale)
    else:
        # Made there: a number copied to the device would wait for it once more.
        parts = [gramian.new_full((), math.nan) if v is None else v for v in losses]
        parts.append(gramian.new_ones(()) if scale is None else scale)
        vector = torch.stack([part.detach().to(gramian) for part in parts])
        whole = torch.cat([gramian.flatten(), vector]).cpu().numpy()
        size = gramian.numel()
        products, numbers = whole[:size].reshape(gramian.shape), whole[size:-1]
        factor = float(whole[-1])
    if factor != 1.0:
        with np.errstate(all="ignore"):
            products = products / factor / factor
    return products, numbers, factor


def _all_finite(store: GradientStore, losses: Array) -> bool:
    """Whether every loss that was given is finite."""
    known = [loss is not None for loss in store.losses.values()]
    return bool(np.isfinite(losses[known]).all())
