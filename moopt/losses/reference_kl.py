"""Divergence from a reference model: the retain loss that keeps whole distributions."""

import dataclasses
from typing import Literal

from torch import Tensor

from moopt.kernels.token_logprob import token_kl_divergences
from moopt.kernels.token_logprob.linear import Logits
from moopt.kernels.token_logprob.shift import same_shape
from moopt.losses.base import (
    Reduction,
    ReferencedLossModule,
    check_ranges,
    one_reference,
    reduce_supervised,
)

Direction = Literal["forward", "reverse"]


def reference_kl_loss(
    logits: Logits,
    labels: Tensor,
    *,
    reference_logits: Logits | None = None,
    reference_log_probs: Tensor | None = None,
    direction: Direction = "forward",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Kullback-Leibler divergence between the model and its reference, on supervised tokens.

    .. math:: L = \frac{1}{|A|} \sum_{t \in A} \sum_v r_{t,v} (\log r_{t,v} - \log p_{t,v})

    with A the supervised tokens of the batch and p, r the next-token distributions of the model
    and of the reference; `direction="reverse"` swaps p and r. Padding and prompt never count: their
    labels are ignored.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`; those at t predict the label at t + 1.
        labels: int64 `[B, T]`; only says which tokens are supervised. Do not shift them.
        reference_logits: the reference model's, as `logits`; a constant.
        reference_log_probs: in place of `reference_logits`, the reference's log-probabilities of
            the whole vocabulary, floating `[B, T, V]`, at the same positions as `logits` (not
            shifted); a constant. They are normalised again, so that ones that were rounded, or cut
            to the top k with -inf elsewhere, are a distribution.
        direction: "forward", KL(reference || model), the default; or "reverse",
            KL(model || reference).
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens of the batch (default), "sum" over them, or
            "none": `[B, T - 1]` with 0 where nothing is supervised.

    Returns:
        float32 (float64 for float64 logits) in [0, inf), in nats. Exactly 0, with an exactly zero
        gradient, where both logits are equal. 0 with a zero gradient when the batch has no
        supervised token.

    Raises:
        ValueError: shapes that do not fit, none or both references, an unknown direction or
            reduction.
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        That of `token_kl_divergences`: float32 in chunks, log-probabilities saturate, so that
        the loss is finite whatever the logits. Never synchronises a device.

    Example:
        >>> import torch
        >>> from moopt.losses import reference_kl_loss
        >>> logits = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
        >>> reference = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]).log()
        >>> labels = torch.tensor([[1, 1]])
        >>> reference_kl_loss(logits, labels, reference_logits=reference)
        tensor(0.1308)
        >>> reference_kl_loss(
        ...     logits, labels, reference_log_probs=reference, direction="reverse"
        ... )
        tensor(0.1438)

    Source:
        The KL term of P. Maini et al., TOFU: A Task of Fictitious Unlearning for LLMs, COLM 2024,
        https://arxiv.org/abs/2401.06121, and of MOLLM, https://arxiv.org/abs/2412.20412. Which
        direction and which tokens MOLLM takes is not published. Averaging over padding, as a plain
        batch mean does, would weight a sample by what it was batched with.
    """
    check_ranges("reference_kl_loss", direction=direction, reduction=reduction)
    name, reference = one_reference(
        reference_logits, reference_log_probs, caller="reference_kl_loss"
    )
    same_shape(logits, reference, name, caller="reference_kl_loss")
    values, mask = token_kl_divergences(
        logits, reference, labels, reverse=direction == "reverse", ignore_index=ignore_index
    )
    return reduce_supervised(values, mask, reduction)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class ReferenceKLLoss(ReferencedLossModule):
    r"""Divergence from a reference model on the retain set: `reference_kl_loss`.

    .. math:: L = \frac{1}{|A|} \sum_{t \in A} \sum_v r_{t,v} (\log r_{t,v} - \log p_{t,v})

    Args:
        direction: "forward", KL(reference || model), the default; or "reverse".
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the supervised tokens (default), "sum" or "none".

    Shape:
        logits, reference_logits and reference_log_probs `[B, T, V]`, labels `[B, T]`; the result is
        a scalar, `[B, T - 1]` for "none".

    Raises:
        ValueError: an unknown direction or reduction.

    Example:
        >>> import torch
        >>> from moopt.losses import ReferenceKLLoss
        >>> logits, labels = torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]])
        >>> ReferenceKLLoss()(logits, labels, reference_logits=logits)
        tensor(0.)

    Source:
        As `reference_kl_loss`.
    """

    direction: Direction = "forward"
    ignore_index: int = -100
    reduction: Reduction = "mean"

    function = staticmethod(reference_kl_loss)
