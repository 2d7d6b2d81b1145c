"""weighted_closure: losses in, `sum_i w_i loss_i` out, with the weights fixed for one step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.combine_rows import write_direction_
from moopt.functional import ids_of, record_rows
from moopt.gradients import GradientStore
from moopt.named_losses import Losses, named_losses

if TYPE_CHECKING:
    from moopt.common_descent import CommonDescent


def weighted_closure(
    optimizer: CommonDescent, losses: Callable[[], Losses]
) -> Callable[[], Tensor]:
    """A closure for the wrapped optimizer.

    The first evaluation is `optimizer.backward`; later ones in the same step (line searches,
    LBFGS) keep its weights, so that the wrapped optimizer sees one function.

    Args:
        optimizer: the `CommonDescent` that steps.
        losses: returns the losses, and calls no backward.
    """
    fixed: dict[str, Tensor] = {}

    def evaluate() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad()
            returned = losses()
            names, values, _ = named_losses(returned)
            if not fixed:
                fixed.update(zip(names, optimizer._combined_weights(returned), strict=True))
            elif set(names) != set(fixed):
                raise ValueError(
                    "the closure must return the same objectives in every evaluation of one step;"
                    f" got {', '.join(names)} after {', '.join(fixed)}. Fix the batch per step."
                )
            else:
                _differentiate_again(optimizer, names, values, fixed)
        terms = [fixed[n] * v.detach().to(fixed[n]) for n, v in zip(names, values, strict=True)]
        return torch.stack(terms).sum()

    return evaluate


def _differentiate_again(
    optimizer: CommonDescent, names: tuple[str, ...], losses: list[Tensor], fixed: dict[str, Tensor]
) -> None:
    """The gradient of `sum_i w_i loss_i` at another point, with the weights of the first one."""
    store = GradientStore()
    parameters = optimizer._parameters()
    record_rows(store, names, losses, parameters)
    shared = None if optimizer.shared is None else ids_of(optimizer.shared, parameters)
    flags = store.shared(shared)
    if not all(flags):
        warnings.warn(
            f"{type(optimizer.optimizer).__name__} evaluates the closure several times in a step,"
            " and some parameters take their gradients unweighted: its line search sees another"
            " function than its gradient. Pass shared=model.parameters() to CommonDescent.",
            UserWarning,
            stacklevel=2,
        )
    write_direction_(store, torch.stack([fixed[name] for name in names]), flags)
