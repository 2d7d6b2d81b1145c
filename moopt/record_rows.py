"""record_rows: one backward pass per loss, each into its row of a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.gradients import GradientStore, set_aside_gradients, take_gradients

if TYPE_CHECKING:
    from torch.amp import GradScaler


def record_rows(
    store: GradientStore,
    names: Iterable[str],
    losses: list[Tensor],
    parameters: list[Tensor],
    scaler: GradScaler | None = None,
) -> None:
    """One backward pass per loss, each into its row of `store`.

    If a pass fails, `.grad` is as before and the rows of this step are dropped.
    """
    try:
        with set_aside_gradients(parameters):
            for i, (name, loss) in enumerate(zip(names, losses, strict=True)):
                scaled = loss if scaler is None else scaler.scale(loss)
                scaled.backward(retain_graph=i + 1 < len(losses))
                store.add(name, parameters, take_gradients(parameters))
    except BaseException as error:
        if len(store):
            error.add_note("moopt dropped the rows of this step; `.grad` is as it was before.")
        store.clear()
        raise


def scale_of(scaler: GradScaler | None, like: Tensor) -> Tensor | None:
    """The factor of `scaler` as a tensor on the device: reading it does not synchronise."""
    if scaler is None or not scaler.is_enabled():
        return None
    return scaler.scale(torch.ones((), device=like.device))


def ids_of(shared: Iterable[Tensor], parameters: list[Tensor]) -> frozenset[int]:
    """The `id`s of `shared`, checked to be among `parameters`."""
    chosen = list(shared)
    known = {id(p) for p in parameters}
    if not chosen or any(id(p) not in known for p in chosen):
        raise ValueError(
            "`shared` must be trainable parameters of the optimizer, at least one;"
            f" {sum(id(p) not in known for p in chosen)} of {len(chosen)} are not. Pass for"
            " instance model.backbone.parameters()."
        )
    return frozenset(id(p) for p in chosen)
