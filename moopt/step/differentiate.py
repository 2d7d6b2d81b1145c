"""record_rows: one backward pass per loss, each into its row of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.gradients import GradientStore, resume_row, set_aside_gradients, take_gradients
from moopt.step.shared_graph import shares_graph

if TYPE_CHECKING:
    from torch.amp import GradScaler


def record_rows(
    store: GradientStore,
    names: Iterable[str],
    losses: list[Tensor],
    parameters: list[Tensor],
    scaler: GradScaler | None = None,
    *,
    auxiliary: Collection[str] = (),
) -> None:
    """One backward pass per loss, each into its row of `store`.

    A graph is freed as soon as no later loss needs it. If a pass fails, `.grad` is as before; the
    store is then incomplete, and the caller drops it.

    Args:
        store: what receives the rows.
        names: one per loss.
        losses: scalars with a graph.
        parameters: of the optimizer.
        scaler: a GradScaler; the rows then carry its factor.
        auxiliary: the names that are no objectives.

    Raises:
        ValueError: there is no parameter, or no loss reaches any.
    """
    if not parameters:
        raise ValueError(
            "there must be at least one parameter that requires grad; got none. Unfreeze some, or"
            " pass model.parameters() to the optimizer."
        )
    with set_aside_gradients(parameters):
        retained = shares_graph(losses)
        for name, loss, retain in zip(names, losses, retained, strict=True):
            extra = name in auxiliary
            resume_row(parameters, store.take(name, parameters, auxiliary=extra))
            scaled = loss if scaler is None else scaler.scale(loss)
            scaled.backward(retain_graph=retain)
            store.add(name, take_gradients(parameters), auxiliary=extra)
    if store.is_empty():
        raise ValueError(
            "no loss reaches a parameter of the optimizer, so there is nothing to combine. Build"
            " the optimizer from the parameters of the model that computes the losses."
        )


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
