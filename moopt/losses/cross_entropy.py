"""Token cross-entropy: the retain loss of a causal language model."""

import dataclasses

from torch import Tensor

from moopt.kernels.token_logprob import token_log_probs
from moopt.kernels.token_logprob.linear import Logits
from moopt.losses.base import LossModule, Reduction, check_ranges, reduce_supervised


def token_cross_entropy_loss(
    logits: Logits, labels: Tensor, *, ignore_index: int = -100, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy of the supervised tokens, with the causal shift.

    .. math:: L = -\frac{1}{|A|} \sum_{t \in A} \log p_t

    with A the supervised tokens of the batch and p_t the probability of the true token.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`; those at t predict the label at t + 1.
        labels: int64 `[B, T]` in [0, V), or `ignore_index`. Do not shift them.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens of the batch (default), "sum" over them, or
            "none": `[B, T - 1]` with 0 where nothing is supervised.

    Returns:
        float32 (float64 for float64 logits) in [0, inf), in nats. 0 with a zero gradient when the
        batch has no supervised token.

    Raises:
        ValueError: shapes that do not fit, an unknown reduction; on the CPU, a label outside
            [0, V).
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        That of `token_log_probs`: chunks in float32, so no float32 copy of the logits is kept.
        Never synchronises a device.

    Example:
        >>> import torch
        >>> from moopt.losses import token_cross_entropy_loss
        >>> token_cross_entropy_loss(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
        tensor(1.3863)

    Source:
        The training loss of causal language models. As `torch.nn.functional.cross_entropy`, except
        that a batch without a supervised token gives 0 and not NaN.
    """
    check_ranges("token_cross_entropy_loss", reduction=reduction)
    log_probs, mask = token_log_probs(logits, labels, ignore_index)
    return reduce_supervised(-log_probs, mask, reduction)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class TokenCrossEntropyLoss(LossModule):
    r"""Cross-entropy of the supervised tokens, with the causal shift: `token_cross_entropy_loss`.

    .. math:: L = -\frac{1}{|A|} \sum_{t \in A} \log p_t

    Args:
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens (default), "sum" or "none".

    Shape:
        logits `[B, T, V]`, labels `[B, T]`; the result is a scalar, `[B, T - 1]` for "none".

    Raises:
        ValueError: an unknown reduction.

    Example:
        >>> import torch
        >>> from moopt.losses import TokenCrossEntropyLoss
        >>> TokenCrossEntropyLoss()(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
        tensor(1.3863)

    Source:
        As `token_cross_entropy_loss`.
    """

    ignore_index: int = -100
    reduction: Reduction = "mean"

    function = staticmethod(token_cross_entropy_loss)
