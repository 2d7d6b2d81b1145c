"""Unlearning cross-entropy: a forget loss with a bounded value and a bounded gradient."""

import dataclasses

import torch
from torch import Tensor

from moopt.kernels.token_logprob import token_log_probs
from moopt.kernels.token_logprob.linear import Logits
from moopt.losses.base import LossModule, Reduction, check_ranges, reduce_supervised


def unlearning_cross_entropy_loss(
    logits: Logits, labels: Tensor, *, ignore_index: int = -100, reduction: Reduction = "mean"
) -> Tensor:
    r"""Unlearning cross-entropy (UCE), smallest where the true tokens have probability 0.

    .. math:: L = -\frac{1}{|A|} \sum_{t \in A} \log\left(1 - \frac{p_t}{2}\right)

    with A the supervised tokens of the batch and p_t the probability of the true token. One
    token's gradient in its logits is gradient ascent with a bounded weight,

    .. math:: \frac{\partial L_t}{\partial z} = -w(p_t) \, (\mathrm{softmax}(z) - e_y),
              \qquad w(p) = \frac{p}{2 - p},

    whose true-token entry is at most :math:`3 - 2\sqrt 2 \approx 0.172` in size, reached at
    :math:`p = 2 - \sqrt 2`. It vanishes as p -> 0 (nothing left to forget), and also as p -> 1:
    a token learnt by heart (p = 0.999) starts with a gradient of 0.001.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`; those at t predict the label at t + 1.
        labels: int64 `[B, T]` in [0, V), or `ignore_index`. Do not shift them.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens of the batch (default), "sum" over them, or
            "none": `[B, T - 1]` with 0 where nothing is supervised.

    Returns:
        float32 (float64 for float64 logits), each token in [0, log 2]. 0 with a zero gradient when
        the batch has no supervised token.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction; on the CPU, a label outside
            [0, V).
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        `-log1p(-p/2)` in float32: exact to rounding at p = 0 and p = 1 alike, for finite logits of
        any size. Otherwise that of `token_log_probs`; never synchronises a device.

    Example:
        >>> import torch
        >>> from moopt.losses import unlearning_cross_entropy_loss
        >>> logits = torch.tensor([[[200.0, 0.0], [0.0, 200.0], [0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 0, 0]])
        >>> unlearning_cross_entropy_loss(logits, labels, reduction="none")  # p = 1, then p = 0
        tensor([[0.6931, 0.0000]])

    Source:
        Z. Pan et al., Multi-Objective Large Language Model Unlearning, ICASSP 2025,
        https://arxiv.org/abs/2412.20412, which names the loss but published no code. The formula
        is taken from the code of the authors' sibling method, Federated Unlearning with Gradient
        Descent and Conflict Mitigation (FedOSD), AAAI 2025, https://arxiv.org/abs/2412.20200; that
        it is the one meant here is inferred.
    """
    check_ranges("unlearning_cross_entropy_loss", reduction=reduction)
    log_probs, mask = token_log_probs(logits, labels, ignore_index)
    values = -torch.log1p(log_probs.exp() * -0.5)
    return reduce_supervised(values.where(mask, 0.0), mask, reduction)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class UnlearningCrossEntropyLoss(LossModule):
    r"""Unlearning cross-entropy of the forget set: `unlearning_cross_entropy_loss`.

    .. math:: L = -\frac{1}{|A|} \sum_{t \in A} \log\left(1 - \frac{p_t}{2}\right)

    Args:
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens (default), "sum" or "none".

    Shape:
        logits `[B, T, V]`, labels `[B, T]`; the result is a scalar, `[B, T - 1]` for "none".

    Raises:
        ValueError: an unknown reduction.

    Example:
        >>> import torch
        >>> from moopt.losses import UnlearningCrossEntropyLoss
        >>> UnlearningCrossEntropyLoss()(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
        tensor(0.1335)

    Source:
        As `unlearning_cross_entropy_loss`.
    """

    ignore_index: int = -100
    reduction: Reduction = "mean"

    function = staticmethod(unlearning_cross_entropy_loss)
