"""named_losses: whatever the caller passes as `losses`, as names and scalar tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Losses: TypeAlias = Mapping[str, Tensor] | Sequence[Tensor] | Tensor
"""Named scalars, a sequence of scalars, or a 1-D tensor."""


def named_losses(
    losses: Losses, *, graph: bool = True
) -> tuple[tuple[str, ...], list[Tensor], bool]:
    """Check `losses` and split it into names and scalars.

    Args:
        losses: a mapping name -> scalar, a sequence of scalars, or a 1-D tensor `[m]`; each a
            floating-point tensor that requires grad. Unnamed losses are called "0", "1", ...
        graph: whether each must require grad; False where only the values are looked at.

    Returns:
        The names, the scalars, and whether the caller named them.

    Raises:
        TypeError: an entry is not a tensor.
        ValueError: no entry, a repeated name, an entry that is not a scalar or has no graph.
    """
    named = isinstance(losses, Mapping)
    if isinstance(losses, Mapping):
        names = tuple(losses)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"names of `losses` must be str; got {name!r}. Use str(name).")
        values = list(losses.values())
    elif isinstance(losses, Tensor):
        if losses.dim() != 1:
            raise ValueError(
                f"`losses` as a tensor must be 1-D, one entry per objective; got shape"
                f" {list(losses.shape)}. For a single objective pass {{'name': loss}} or [loss]."
            )
        values = list(losses.unbind())
        names = tuple(str(i) for i in range(len(values)))
    elif isinstance(losses, Sequence) and not isinstance(losses, str):
        values = list(losses)
        names = tuple(str(i) for i in range(len(values)))
    else:
        raise TypeError(
            "`losses` must be a mapping name -> scalar, a sequence of scalars or a 1-D tensor; got"
            f" {type(losses).__name__}. Pass for instance {{'forget': loss_a, 'retain': loss_b}}."
        )
    if not values:
        raise ValueError(
            "`losses` must hold at least one objective; got none. Pass one scalar each."
        )
    for name, value in zip(names, values, strict=True):
        _check_scalar(name, value, graph)
    return names, [value.reshape(()) for value in values], named


def loss_value(name: str, loss: Tensor | float) -> Tensor:
    """The value of one objective's loss, checked; no graph is needed.

    Raises:
        TypeError: `name` is not a string, or `loss` neither a tensor nor a number.
        ValueError: `loss` is not a real floating-point scalar.
    """
    if isinstance(loss, int | float):
        loss = torch.tensor(float(loss), dtype=torch.float64)
    return named_losses({name: loss}, graph=False)[1][0]


def _check_scalar(name: str, value: object, graph: bool) -> None:
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
    if graph and not value.requires_grad:
        raise ValueError(
            f"loss {name!r} must have a graph; got a tensor that does not require grad. Compute it"
            " outside torch.no_grad() from trainable parameters, and do not detach it."
        )
