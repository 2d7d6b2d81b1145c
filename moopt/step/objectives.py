"""named_losses: whatever the caller passes as `losses`, as scalar tensors by name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from moopt.settings.names import sample_name

Losses: TypeAlias = Mapping[str, Tensor] | Sequence[Tensor] | Tensor
"""Named scalars, a sequence of scalars, or a 1-D tensor."""


def named_losses(losses: Losses, *, graph: bool = True) -> dict[str, Tensor]:
    """Check `losses`, and give them by name, in their order.

    Args:
        losses: a mapping name -> scalar, a sequence of scalars, or a 1-D tensor `[m]`; each a
            floating-point tensor that requires grad. Unnamed losses are called "0", "1", ...
        graph: whether each must require grad; False where only the values are looked at.

    Raises:
        TypeError: an entry is not a tensor.
        ValueError: no entry, an entry that is not a scalar or has no graph.
    """
    if isinstance(losses, Tensor):
        if losses.dim() != 1:
            raise ValueError(
                "`losses` as a tensor must be 1-D, one entry per objective; got shape"
                f" {list(losses.shape)}. For a single objective pass {{'name': loss}} or [loss]."
            )
        losses = losses.unbind()
    if isinstance(losses, Mapping):
        named = dict(losses)
        odd = [name for name in named if not isinstance(name, str)]
        if odd:
            raise TypeError(f"names of `losses` must be str; got {odd[0]!r}. Use str(name).")
    elif isinstance(losses, Sequence) and not isinstance(losses, str):
        named = {str(i): value for i, value in enumerate(losses)}
    else:
        raise TypeError(
            "`losses` must be a mapping name -> scalar, a sequence of scalars or a 1-D tensor; got"
            f" {type(losses).__name__}. Pass for instance {{'forget': loss_a, 'retain': loss_b}}."
        )
    if not named:
        raise ValueError(
            "`losses` must hold at least one objective; got none. Pass one scalar each."
        )
    for name, value in named.items():
        if not (isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()):
            named[name] = _scalar(name, value)
        if graph and not value.requires_grad:
            raise ValueError(
                f"loss {name!r} must have a graph; got a tensor that does not require grad. Compute"
                " it outside torch.no_grad() and do not detach it, or leave it out of the losses."
            )
    return named


def loss_value(name: str, loss: Tensor | float) -> Tensor:
    """The value of one objective's loss, checked; no graph is needed.

    Raises:
        TypeError: `name` is not a string, or `loss` is neither a tensor nor a number.
        ValueError: `loss` is not a real floating-point scalar.
    """
    if isinstance(loss, int | float):
        loss = torch.tensor(float(loss), dtype=torch.float64)
    return named_losses({name: loss}, graph=False)[name]


def _scalar(name: str, value: object) -> Tensor:
    """The loss without dimensions, or an error that says what is wrong with it."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"loss {name!r} must be a tensor; got {type(value).__name__}. Pass the loss itself,"
            " not loss.item()."
        )
    if value.numel() != 1:
        raise ValueError(
            f"loss {name!r} must be a scalar; got shape {list(value.shape)}. Reduce it, for"
            " instance with .mean()."
        )
    if not value.is_floating_point():
        remedy = ".real or .abs()" if value.is_complex() else ".float()"
        raise ValueError(f"loss {name!r} must be floating point; got {value.dtype}. Use {remedy}.")
    return value.reshape(())


def sample_losses(losses: Mapping[str, Tensor], samples: Sequence[Losses]) -> dict[str, Tensor]:
    """The losses of the same objectives on other batches, by the names of their rows.

    Raises:
        ValueError: the objectives are not those of `losses`, or a name is a row's already.
    """
    values: dict[str, Tensor] = {}
    for k, sample in enumerate(samples, 1):
        others = named_losses(sample)
        if others.keys() != losses.keys():
            raise ValueError(
                f"`samples` must hold the objectives of `losses`, {', '.join(losses)}; got"
                f" {', '.join(others)}. Compute the same losses on another batch."
            )
        values |= {sample_name(name, k): value for name, value in others.items()}
    taken = [name for name in losses if name in values]
    if taken:
        raise ValueError(
            f"objectives must not be named like the rows of samples; got {', '.join(taken)},"
            " which are the names of another objective's samples. Rename them."
        )
    return values


def objective_names(objectives: Iterable[str]) -> tuple[str, ...]:
    """The names given as `objectives`, checked.

    Raises:
        ValueError: a bare string, no name, or a name twice.
    """
    names = tuple(objectives)
    if isinstance(objectives, str) or not names or len(set(names)) != len(names):
        raise ValueError(
            f"`objectives` must be distinct names in a sequence; got {objectives!r}. Pass for"
            " instance ('forget', 'retain')."
        )
    return names


def refuse_unknown(names: Iterable[str], objectives: Sequence[str]) -> None:
    """Raise where a name is not among those given as `objectives`.

    Raises:
        ValueError: an unknown name, whose state a distributed checkpoint could not load.
    """
    unknown = [name for name in names if name not in objectives]
    if unknown:
        raise ValueError(
            f"`objectives` of CommonDescent names {', '.join(objectives)}; got"
            f" {', '.join(unknown)}. Use the same names, or leave `objectives` out."
        )


def refuse_torch_closure(returned: object, parameters: Sequence[Tensor]) -> None:
    """Refuse the closure that torch's own optimizers take: it returns one loss, or calls backward.

    Raises:
        RuntimeError: gradients arrived while it ran.
        ValueError: it returned a single scalar, or nothing.
    """
    if any(p.grad is not None and bool(p.grad.any()) for p in parameters):
        raise RuntimeError(
            "the closure of CommonDescent.step must not call backward: step() differentiates each"
            " loss itself. Return the losses, for instance {'forget': loss_a, 'retain': loss_b}."
        )
    if returned is None or (isinstance(returned, Tensor) and returned.dim() == 0):
        raise ValueError(
            "the closure of CommonDescent.step must return the losses by name, and call no"
            f" backward; got {'nothing' if returned is None else 'one scalar'}, as torch's own"
            " closures return. Return for instance {'forget': loss_a, 'retain': loss_b}."
        )
