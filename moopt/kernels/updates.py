"""The updates of SGD and Adam along a direction, as torch's fused optimizers compute them.

How many states a parameter has tells the rule: none is SGD, one SGD with momentum, two are Adam
or AdamW, three those with amsgrad.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SGD = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
"""The numbers of a parameter under SGD, in order; flags are 0 or 1."""

ADAM = ("lr", "beta1", "beta2", "eps", "coupled_decay", "decoupled_decay", "step", "maximize")
"""Those under Adam (its decay is coupled: a part of the gradient) and AdamW (decoupled).

`step` counts the one that is being taken.
"""


def numbers_of(states: int) -> tuple[str, ...]:
    """The names of the numbers of a parameter with so many states."""
    return SGD if states < 2 else ADAM


def scalars_of(numbers: Tensor, states: int) -> Tensor:
    """float64, `[T, 6]` or from two states on `[T, 8]`: what the kernels read for a parameter.

    Args:
        numbers: float64 `[T, S]`, by parameter; as named by `numbers_of(states)`.
        states: how many each parameter has.

    Returns:
        Where the numbers lie: sign, decay, learning rate, momentum, 1 - dampening and nesterov; or
        sign, coupled decay, decoupled decay times learning rate, both betas, the learning rate over
        the first bias, the root of the second, and eps.
    """
    if states < 2:
        lr, momentum, dampening, decay, nesterov, maximize = numbers.unbind(1)
        return torch.stack(
            [1.0 - 2.0 * maximize, decay, lr, momentum, 1.0 - dampening, nesterov], 1
        )
    lr, beta1, beta2, eps, coupled, decoupled, step, maximize = numbers.unbind(1)
    size, root = lr / (1.0 - beta1**step), (1.0 - beta2**step).sqrt()
    sign = 1.0 - 2.0 * maximize
    return torch.stack([sign, coupled, lr * decoupled, beta1, beta2, size, root, eps], 1)


def update_(
    parameter: Tensor, states: Sequence[Tensor], d: Tensor, numbers: Sequence[float]
) -> None:
    """Take one step along `d`, in place and in the dtype of the tensors, which is that of `d`.

    Args:
        parameter: of any shape, like all tensors here.
        states: the momentum buffer; or the first moment, the second and, with amsgrad, the largest
            second one so far. All of them were made by an earlier step.
        d: the direction; overwritten.
        numbers: as named by `numbers_of(len(states))`.
    """
    if len(states) < 2:
        _sgd_(parameter, states, d, *numbers)
    else:
        _adam_(parameter, states, d, *numbers)


def _sgd_(
    parameter: Tensor,
    states: Sequence[Tensor],
    d: Tensor,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: float,
    maximize: float,
) -> None:
    if maximize:
        d.neg_()
    if weight_decay:
        d.add_(parameter, alpha=weight_decay)
    for buffer in states:
        buffer.mul_(momentum).add_(d, alpha=1.0 - dampening)
        d = d.add_(buffer, alpha=momentum) if nesterov else buffer
    parameter.add_(d, alpha=-lr)


def _adam_(
    parameter: Tensor,
    states: Sequence[Tensor],
    d: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    coupled_decay: float,
    decoupled_decay: float,
    step: float,
    maximize: float,
) -> None:
    first, second, *largest = states
    if maximize:
        d.neg_()
    if coupled_decay:
        d.add_(parameter, alpha=coupled_decay)
    if decoupled_decay:
        parameter.mul_(1.0 - lr * decoupled_decay)
    first.lerp_(d, 1.0 - beta1)
    second.mul_(beta2).addcmul_(d, d, value=1.0 - beta2)
    for so_far in largest:
        second = torch.maximum(so_far, second, out=so_far)
    size = torch.sqrt(second, out=d)
    size.div_(math.sqrt(1.0 - beta2**step)).add_(eps)
    parameter.addcdiv_(first, size, value=-lr / (1.0 - beta1**step))
