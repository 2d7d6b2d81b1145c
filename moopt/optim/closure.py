"""weighted_closure: losses in, `sum_i w_i loss_i` out, with the weights fixed for one step."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from moopt.step.objectives import Losses, named_losses


def weighted_closure(
    losses: Callable[[], Losses],
    *,
    zero_grad: Callable[[], None],
    combine: Callable[[Losses], Tensor],
    combine_again: Callable[[tuple[str, ...], list[Tensor], Tensor], None],
) -> Callable[[], Tensor]:
    """A closure for an optimizer that may evaluate it several times in one step.

    The first evaluation weighs the objectives; later ones (line searches, LBFGS) keep its weights,
    so that the optimizer sees one function.

    Args:
        losses: returns the losses, and calls no backward.
        zero_grad: called before each evaluation.
        combine: of the first evaluation; leaves the direction in `.grad`, returns the weights.
        combine_again: of the later ones, with the names, the losses and their fixed weights.
    """
    fixed: dict[str, Tensor] = {}

    def evaluate() -> Tensor:
        with torch.enable_grad():
            zero_grad()
            returned = losses()
            names, values, _ = named_losses(returned)
            if not fixed:
                fixed.update(zip(names, combine(returned), strict=True))
            elif set(names) != set(fixed):
                raise ValueError(
                    "the closure must return the same objectives in every evaluation of one step;"
                    f" got {', '.join(names)} after {', '.join(fixed)}. Fix the batch per step."
                )
            else:
                combine_again(names, values, torch.stack([fixed[name] for name in names]))
        terms = [fixed[n] * v.detach().to(fixed[n]) for n, v in zip(names, values, strict=True)]
        return torch.stack(terms).sum()

    return evaluate


def warn_of_unweighted(optimizer: str, unweighted: int) -> None:
    """Warn where a line search would see another function than its gradient."""
    if unweighted:
        warnings.warn(
            f"{optimizer} evaluates the closure several times a step, and {unweighted} parameters"
            " take their gradients unweighted: its line search sees another function than its"
            " gradient. Pass shared=model.parameters() to CommonDescent.",
            UserWarning,
            stacklevel=2,
        )
