"""Gradient ascent: the negated cross-entropy as a forget loss."""

import dataclasses

from torch import Tensor

from moopt.kernels.token_logprob import token_log_probs
from moopt.kernels.token_logprob.linear import Logits
from moopt.losses.base import LossModule, Reduction, check_ranges, reduce_supervised


def gradient_ascent_loss(
    logits: Logits, labels: Tensor, *, ignore_index: int = -100, reduction: Reduction = "mean"
) -> Tensor:
    r"""The negated cross-entropy: minimising it ascends the loss of the forget set.

    .. math:: L = \frac{1}{|A|} \sum_{t \in A} \log p_t

    with A the supervised tokens of the batch and p_t the probability of the true token.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`; those at t predict the label at t + 1.
        labels: int64 `[B, T]` in [0, V), or `ignore_index`. Do not shift them.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens of the batch (default), "sum" over them, or
            "none": `[B, T - 1]` with 0 where nothing is supervised.

    Returns:
        float32 (float64 for float64 logits) in (-inf, 0], in nats: *unbounded below*, and its
        gradient does not vanish as p -> 0, so it destroys a model that trains on it for long. 0
        with a zero gradient when the batch has no supervised token.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction; on the CPU, a label outside
            [0, V).
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        That of `token_log_probs`: chunks in float32, so no float32 copy of the logits is kept.
        Never synchronises a device.

    Example:
        >>> import torch
        >>> from moopt.losses import gradient_ascent_loss
        >>> gradient_ascent_loss(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
        tensor(-1.3863)

    Source:
        J. Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models,
        ACL 2023; they sum over tokens, we take the mean by default, as TOFU (P. Maini et al.,
        COLM 2024) does.
    """
    check_ranges("gradient_ascent_loss", reduction=reduction)
    log_probs, mask = token_log_probs(logits, labels, ignore_index)
    return reduce_supervised(log_probs, mask, reduction)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class GradientAscentLoss(LossModule):
    r"""The negated cross-entropy of the forget set: `gradient_ascent_loss`.

    .. math:: L = \frac{1}{|A|} \sum_{t \in A} \log p_t

    Args:
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens (default), "sum" or "none".

    Shape:
        logits `[B, T, V]`, labels `[B, T]`; the result is a scalar, `[B, T - 1]` for "none".

    Raises:
        ValueError: an unknown reduction.

    Example:
        >>> import torch
        >>> from moopt.losses import GradientAscentLoss
        >>> GradientAscentLoss()(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
        tensor(-1.3863)

    Source:
        As `gradient_ascent_loss`.
    """

    ignore_index: int = -100
    reduction: Reduction = "mean"

    function = staticmethod(gradient_ascent_loss)
