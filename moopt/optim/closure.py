"""weighted_closure: losses in, `sum_i w_i loss_i` out, with the weights fixed for one step."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moopt.step.objectives import Losses, named_losses


def weighted_closure(
    losses: Callable[[], Losses],
    *,
    parameters: Sequence[Tensor],
    zero_grad: Callable[[], None],
    combine: Callable[[Losses], dict[str, Tensor]],
    combine_again: Callable[[dict[str, Tensor], Tensor], None],
) -> Callable[[], Tensor]:
    """Make a closure for an optimizer that may evaluate it several times in one step.

    The first evaluation weighs the objectives; later ones (line searches, LBFGS) keep its weights,
    so that the optimizer sees one function.

    Args:
        losses: returns the losses, and calls no backward.
        parameters: those of the optimizer.
        zero_grad: called before each evaluation.
        combine: called at the first evaluation; leaves the direction in `.grad` and returns the
            weights by name, of all but the objectives that were left out.
        combine_again: called at the later ones, with the losses by name and the fixed weights.
    """
    fixed: dict[str, Tensor] = {}
    first: set[str] = set()

    def evaluate() -> Tensor:
        with torch.enable_grad():
            zero_grad()
            returned = losses()
            _refuse_torch_closure(returned, parameters)
            named = named_losses(returned)
            if first and named.keys() != first:
                raise ValueError(
                    "the closure must return the same objectives in every evaluation of one step;"
                    f" got {', '.join(named)} after {', '.join(sorted(first))}. Fix the batch."
                )
            if not first:
                fixed.update(combine(returned))
            kept = {name: loss for name, loss in named.items() if name in fixed}
            weights = [fixed[name] for name in kept]
            if first:
                combine_again(kept, torch.stack(weights))
            first.update(named)
        values = zip(kept.values(), weights, strict=True)
        return torch.stack([loss.detach().double() * w.to(loss.device) for loss, w in values]).sum()

    return evaluate


def _refuse_torch_closure(returned: object, parameters: Sequence[Tensor]) -> None:
    """Refuse the closure that torch's own optimizers take: it returns one loss, or calls backward.

    Raises:
        RuntimeError: gradients arrived while it ran.
        ValueError: it returned a single scalar, or nothing.
    """
    if any(p.grad is not None and bool(p.grad.any()) for p in parameters):
        raise RuntimeError(
            "the closure of CommonDescent.step must not call backward: step() differentiates each"
            " loss itself, and gradients that are there already would be added. Return the losses,"
            " for instance {'forget': loss_a, 'retain': loss_b}."
        )
    if returned is None or (isinstance(returned, Tensor) and returned.dim() == 0):
        raise ValueError(
            "the closure of CommonDescent.step must return the losses by name, and call no"
            f" backward; got {'nothing' if returned is None else 'one scalar'}, as torch's own"
            " closures return. Return for instance {'forget': loss_a, 'retain': loss_b}."
        )


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
