"""backward: the functional core, for any optimizer or list of parameters."""

from collections import Counter
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.amp import GradScaler

from moopt.aggregators.base import Method
from moopt.gradients import GradientStore
from moopt.gradients.capture import trainable
from moopt.gradients.replicas import has_replicas
from moopt.optim.common_descent import CommonDescent
from moopt.optim.resolve_method import resolve_method
from moopt.records.step_record import StepRecord
from moopt.scalarizations import Scalarization
from moopt.step.differentiate import differentiate, ids_of, scale_of
from moopt.step.method_state import MethodState, is_stateful
from moopt.step.objectives import Losses, named_losses
from moopt.step.one_pass import one_pass
from moopt.step.step_settings import StepSettings
from moopt.step.take_step import take_step


@overload
def backward(
    losses: Losses,
    optimizer_or_parameters: torch.optim.Optimizer | Iterable[Tensor],
    weighting: Method | str | None = ...,
    *,
    scaler: GradScaler | None = ...,
    shared: Iterable[Tensor] | None = ...,
    state: MutableMapping[str, Any] | None = ...,
    accumulate: Literal[False] = ...,
) -> StepRecord: ...
@overload
def backward(
    losses: Losses,
    optimizer_or_parameters: torch.optim.Optimizer | Iterable[Tensor],
    weighting: Method | str | None = ...,
    *,
    scaler: GradScaler | None = ...,
    shared: Iterable[Tensor] | None = ...,
    state: MutableMapping[str, Any] | None = ...,
    accumulate: bool,
) -> StepRecord | None: ...
def backward(
    losses: Losses,
    optimizer_or_parameters: torch.optim.Optimizer | Iterable[Tensor],
    weighting: Method | str | None = None,
    *,
    scaler: GradScaler | None = None,
    shared: Iterable[Tensor] | None = None,
    state: MutableMapping[str, Any] | None = None,
    accumulate: bool = False,
) -> StepRecord | None:
    """Differentiate several losses and leave one direction in `.grad`.

    Runs one backward pass per objective (a single one with a scalarization), weighs the gradients
    `g_i` through their Gramian, and adds `d = sum_i w_i g_i` to `.grad`; any optimizer can then
    take its step along it. With a `CommonDescent` (also inside a wrapper such as accelerate's)
    this is its `backward` method.

    Args:
        losses: mapping name -> scalar, sequence of scalars or 1-D tensor, unscaled.
        optimizer_or_parameters: whose parameters to differentiate for.
        weighting: the method, or its registered name; None is the default method (or the one of
            the `CommonDescent`).
        scaler: a GradScaler; the passes run scaled, `.grad` carries the scale, and the weights are
            those without a scaler.
        shared: parameters whose gradients enter the Gramian; default: those that at least two
            objectives reach. The others take their gradients unweighted; a scalarization weighs
            them all.
        state: a dictionary that keeps the state of a stateful weighting between calls.
        accumulate: only add to the rows of a `CommonDescent` (a micro-batch). Under accelerate:
            `accumulate=not accelerator.sync_gradients`.

    Returns:
        The record of the step; None with `accumulate=True`.

    Raises:
        ValueError: malformed losses; a stateful weighting without `state`, or one that observes
            the losses after the step; settings that a `CommonDescent` already has.
        TypeError: a loss is not a tensor.

    Example:
        >>> import torch, moopt
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> losses = {"a": w[0] ** 2, "b": (w[0] - 3 * w[1]) ** 2}
        >>> record = moopt.backward(losses, [w], moopt.MGDA())
        >>> record.names, bool(record.descent)
        (('a', 'b'), True)
    """
    owner = _unwrap(optimizer_or_parameters)
    if isinstance(owner, CommonDescent):
        for name, value in (("weighting", weighting), ("shared", shared), ("state", state)):
            if value is not None:
                raise ValueError(
                    f"`{name}` belongs to the CommonDescent that was passed; got a second one."
                    f" Set it in CommonDescent(optimizer, ...) and leave it out here."
                )
        return owner.backward(losses, scaler=scaler, accumulate=accumulate)
    if accumulate:
        raise ValueError(
            "`accumulate=True` needs a CommonDescent, which keeps the rows; got"
            f" {type(owner).__name__}. Wrap it: CommonDescent(optimizer)."
        )
    method = resolve_method(weighting)
    if is_stateful(method) and state is None:
        raise ValueError(
            f"{type(method).__name__} keeps state from step to step and none was given. Pass"
            " state={} and keep that dictionary, or use moopt.CommonDescent."
        )
    if method.observes:
        raise ValueError(
            f"{type(method).__name__} learns from the losses after the step, which this function"
            " never sees. Use moopt.CommonDescent and its observe(losses)."
        )
    named = named_losses(losses)
    parameters = _parameters_of(owner)
    settings = StepSettings(
        memory=MethodState(method, {} if state is None else state),
        shared=None if shared is None else ids_of(shared, parameters),
        # A fresh count: nothing here outlives the call, so the processes are compared in each.
        checked=Counter() if has_replicas() else None,
    )
    if isinstance(method, Scalarization):
        return one_pass(named, parameters, settings, scaler)
    store = GradientStore()
    differentiate(store, named, parameters, scaler)
    return take_step(store, settings, scale_of(scaler, parameters[0]))


def _unwrap(owner: Any) -> Any:
    """Look through wrappers (accelerate, Lightning) for a `CommonDescent`."""
    inner = owner
    while inner is not None and not isinstance(inner, CommonDescent):
        inner = getattr(inner, "optimizer", None)
    return owner if inner is None else inner


def _parameters_of(owner: Any) -> list[Tensor]:
    if isinstance(owner, torch.optim.Optimizer):
        return trainable(owner)
    if isinstance(owner, Tensor | torch.nn.Module) or not isinstance(owner, Iterable):
        remedy = "[tensor]" if isinstance(owner, Tensor) else "model.parameters()"
        raise TypeError(
            "`optimizer_or_parameters` must be an optimizer or an iterable of parameters; got"
            f" {type(owner).__name__}. Pass {remedy}."
        )
    owner = list(owner)
    if not all(isinstance(p, Tensor) for p in owner):
        raise TypeError(
            "`optimizer_or_parameters` must hold parameters; got other entries, such as (name,"
            " parameter) pairs or groups. Pass model.parameters()."
        )
    return list(dict.fromkeys(p for p in owner if p.requires_grad))
