"""take_step: the whole flow of one step. Rows in, a direction in `.grad` and a record out."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.aggregators.base import Method
from moopt.gradients import GradientStore
from moopt.gradients.replicas import mean_over_processes
from moopt.records.result import Array
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.scalarizations import Scalarization
from moopt.step.aggregate import aggregate_
from moopt.step.on_device import device_point, step_on_device
from moopt.step.step_settings import StepSettings
from moopt.step.weigh import Weighed, weigh
from moopt.weightings import Constant
from moopt.weightings.cleared import Step


def take_step(
    store: GradientStore, settings: StepSettings, scale: Tensor | None = None
) -> StepRecord:
    """Combine the rows of `store` into a direction and add it to `.grad`; the rows are consumed.

    Args:
        store: one row per objective, with the losses; on return it is empty.
        settings: with the method and what it keeps.
        scale: the factor of a GradScaler that the rows carry; what the method sees is unscaled,
            what lands in `.grad` keeps the factor.

    Raises:
        ValueError: the method needs losses and one is missing, uses no auxiliary rows and there
            are some, or asks for ascent on parameters that take their gradients unweighted.
        RuntimeError: the processes hold different gradients.
    """
    memory, shared, checked = settings.memory, settings.shared, settings.checked
    method = memory.method
    left_out: tuple[str, ...] = ()
    if settings.skip_non_finite:
        left_out = store.leave_out_non_finite_(replicas=checked is not None)
    names, auxiliary = tuple(store.rows), tuple(store.auxiliary)
    m = len(names)
    remembers = isinstance(method, TrackingAggregator) and method.combines_absent
    if remembers and shared is None:  # which ones the absent objectives reach is not known here
        shared = {id(parameter) for parameter in store.parameters}
    flags = store.shared(shared)
    known = [loss is not None for loss in store.losses.values()]
    if auxiliary or not all(known) or isinstance(method, Constant):
        refuse_unfit(method, store, flags)

    on_device = settings.on_device
    if on_device is not None and (on_device.always or not store.parameters[0].is_cpu):
        point = device_point(store, settings)
        if point is not None:
            return step_on_device(store, settings, flags, scale, point)
    gramian = store.gramian(flags)
    if checked is not None:
        store.check_replicas(gramian, flags, checked)
    products, losses, factor = _on_host(gramian, list(store.losses.values()), scale)
    averaged = losses
    if checked is not None:  # they decide who is active, and what is finite
        local = torch.from_numpy(losses).to(gramian.device)
        averaged = mean_over_processes(local).cpu().numpy()
    finite_losses = bool(np.isfinite(averaged if all(known) else averaged[known]).all())
    given = Step(
        gramian=products,
        active=np.ones(m, dtype=bool),
        losses=averaged,
        names=names,
        auxiliary=auxiliary,
        noise=store.noise,
        lr=settings.lr,
        step=memory.step(settings.step),
    )
    everywhere = isinstance(method, Scalarization)
    combines_auxiliary = bool(auxiliary) and method.combines_auxiliary
    alone = m == 1 and not combines_auxiliary and not remembers
    if alone or not (everywhere or any(flags)):
        found = _unweighted(products[:m, :m], finite_losses)
    elif isinstance(method, GradientAggregator):
        found = aggregate_(store, given, settings, flags, factor, finite_losses)
    else:
        found = weigh(
            method,
            given,
            memory.read(names),
            inactive_tol=settings.inactive_tol,
            eps=store.accumulation_eps(),
            finite_losses=finite_losses,
        )
        unspoiled = found.status is not SolverStatus.NON_FINITE
        memory.write(names, found.state, steps=int(unspoiled))
    if combines_auxiliary:  # subtracted from 0: no -0.0
        found = found._replace(slopes=0.0 - (products @ found.weights)[:m])
    if store.rows:
        used = found.weights if combines_auxiliary else found.weights[:m]
        store.write_direction_(used, flags, everywhere=everywhere)
    return record_of(
        found, losses, products[:m, :m], names=names, step=settings.step, left_out=left_out
    )


def record_of(found: Weighed, losses: Array, gramian: Array, **known: Any) -> StepRecord:
    """The record of a step: the one place that makes one; `known` are further fields."""
    return StepRecord(
        losses=torch.from_numpy(losses),
        weights=torch.from_numpy(found.weights[: len(losses)]),
        gramian=torch.from_numpy(gramian),
        active=torch.from_numpy(found.active),
        stationarity=found.stationarity,
        status=found.status,
        gap=found.gap,
        descent=found.descent,
        fell_back=found.fell_back,
        fallbacks=int(found.fell_back),
        slopes=None if found.slopes is None else torch.from_numpy(found.slopes),
        weighted=found.weighted,
        rises=None if found.rises is None else torch.from_numpy(found.rises),
        **known,
    )


def _unweighted(gramian: Array, finite_losses: bool) -> Weighed:
    """Weight one for each: a single objective, or objectives that share no parameter."""
    m = len(gramian)
    finite = finite_losses and bool(np.isfinite(gramian).all())
    return Weighed(
        weights=np.ones(m),
        active=np.ones(m, dtype=bool),
        status=SolverStatus.CONVERGED if finite else SolverStatus.NON_FINITE,
        stationarity=float(gramian[0, 0] > 0.0) if m == 1 else math.nan,
        gap=0.0 if m == 1 else math.nan,
        descent=finite,
    )


def refuse_unfit(method: Method, store: GradientStore, shared: Sequence[bool]) -> None:
    """Raise where the method cannot work on the rows of `store`.

    Raises:
        ValueError: it needs losses and one is missing, it never looks at auxiliary rows and there
            are some, or a constant negative weight would turn into descent wherever gradients go
            unweighted.
    """
    missing = [key for key, loss in store.losses.items() if loss is None]
    if "losses" in method.needs and missing:
        raise ValueError(
            f"{type(method).__name__} needs the value of every loss; none was given for"
            f" {', '.join(map(repr, missing))}. Pass it: optimizer.objective(name, loss)."
        )
    refuse_unused(method, store.auxiliary)
    if isinstance(method, Constant) and method.has_negative:
        outside = store.unweighted(shared)
        if len(store.rows) == 1 or outside:
            raise ValueError(
                "Constant with a negative weight needs every objective in every step and every"
                f" parameter in `shared`; got {len(store.rows)} objective(s) and {outside} outside."
                " Pass shared=model.parameters(), or negate the loss instead of its weight."
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
        if gramian.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "this step reads the Gramian, which a CUDA graph cannot capture; pass"
                " CommonDescent(..., capturable=True), with MGDA, UPGrad or DualProj."
            )
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
