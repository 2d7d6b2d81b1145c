"""differentiate: one backward pass per loss, each into its row of a store."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from moopt.gradients import GradientStore


def differentiate(
    store: GradientStore,
    losses: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    scaler: GradScaler | None = None,
    *,
    auxiliary: Collection[str] = (),
) -> None:
    """Run one backward pass per loss; each adds to its row of `store`.

    A graph is freed as soon as no later loss needs it. If a pass fails, `.grad` is as before; the
    store is then incomplete, and the caller drops it.

    Args:
        store: what receives the rows, and the values of the losses.
        losses: scalars with a graph, by name.
        parameters: of the optimizer.
        scaler: a GradScaler; the rows then carry its factor.
        auxiliary: the names that are not objectives.

    Raises:
        ValueError: there is no parameter, or a loss reaches none.
    """
    if not parameters:
        raise ValueError(
            "there must be at least one parameter that requires grad; got none. Unfreeze some, or"
            " pass model.parameters() to the optimizer."
        )
    silent = []
    again = shares_graph(list(losses.values()))
    with store.set_aside(parameters):
        for (name, loss), retain in zip(losses.items(), again, strict=True):
            so_far = store.begin(name, auxiliary=name in auxiliary)
            (loss if scaler is None else scaler.scale(loss)).backward(retain_graph=retain)
            store.end(name, so_far, auxiliary=name in auxiliary)
            if not store.arrived:
                silent.append(name)
    if silent:
        refuse_unreached(silent, everyone=store.is_empty())
    for name, loss in losses.items():
        if name not in auxiliary:
            store.add_loss(name, loss)


def refuse_unreached(silent: Sequence[str], *, everyone: bool) -> NoReturn:
    """Raise for losses that train nothing: the first of them, or `everyone`."""
    if everyone:
        raise ValueError(
            "no loss reaches a parameter of the optimizer, so there is nothing to combine. Build"
            " the optimizer from the parameters of the model that computes the losses."
        )
    raise ValueError(
        f"loss {silent[0]!r} reaches no parameter of the optimizer. Build the optimizer from the"
        " parameters of the model that computes the loss, or leave it out of the losses."
    )


def shares_graph(losses: Sequence[Tensor]) -> list[bool]:
    """For each loss, whether a later one needs a part of its graph again.

    Visits every node of the graphs once. Leaves do not count: a parameter that two graphs use
    holds nothing that a backward pass frees.

    Args:
        losses: scalars with a graph, in the order in which they are differentiated.

    Returns:
        One flag per loss; the last one is always False.
    """
    owner: dict[Node, int] = {}
    flags = [False] * len(losses)
    for i in range(len(losses) - 1, -1, -1):
        stack = [losses[i].grad_fn]
        while stack:
            node = stack.pop()
            if node is None:
                continue
            first = owner.get(node)
            if first is None:
                parents = node.next_functions
                if parents:  # AccumulateGrad, and nodes without inputs, have none
                    owner[node] = i
                    stack += [parent for parent, _ in parents]
            elif first != i:
                flags[i] = True
    return flags


def reaches(loss: Tensor, parameters: Collection[int]) -> bool:
    """Whether a backward pass of `loss` fills one of some parameters, for all that the graph tells.

    Args:
        loss: a scalar with a graph.
        parameters: their `id`s.

    Returns:
        True as soon as one is found, or a Python function (a reentrant checkpoint, a compiled
        model), whose own passes cannot be seen.
    """
    stack = [loss.grad_fn]
    known: set[Node] = set()
    while stack:
        node = stack.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if isinstance(node, BackwardCFunction) or id(getattr(node, "variable", None)) in parameters:
            return True
        stack += [parent for parent, _ in node.next_functions]
    return id(loss) in parameters


def ids_of(shared: Iterable[Tensor], parameters: Sequence[Tensor]) -> frozenset[int]:
    """The `id`s of `shared`, checked to be among `parameters`."""
    chosen = list(shared)
    known = {id(p) for p in parameters}
    strangers = sum(id(p) not in known for p in chosen)
    if not chosen or strangers:
        raise ValueError(
            f"`shared` must be trainable parameters of the optimizer, at least one; {strangers} of"
            f" {len(chosen)} are not. Pass for instance model.backbone.parameters()."
        )
    return frozenset(id(p) for p in chosen)


def scale_of(scaler: GradScaler | None, like: Tensor) -> Tensor | None:
    """The factor of `scaler` as a tensor on the device; None where it is off."""
    if scaler is None or not scaler.is_enabled():
        return None
    return scaler.scale(torch.ones((), device=like.device))
