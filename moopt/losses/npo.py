"""Negative preference optimization: a forget loss relative to a reference model."""

import dataclasses

from torch import Tensor, nn

from moopt.kernels.token_logprob import token_log_probs
from moopt.kernels.token_logprob.linear import Logits
from moopt.kernels.token_logprob.shift import same_shape
from moopt.losses.base import (
    Reduction,
    ReferencedLossModule,
    check_ranges,
    one_reference,
    reduce_supervised,
)


def npo_loss(
    logits: Logits,
    labels: Tensor,
    *,
    reference_logits: Logits | None = None,
    reference_log_probs: Tensor | None = None,
    beta: float = 0.1,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative preference optimization (NPO): every forget sequence is a rejected answer.

    .. math:: L = -\frac{2}{\beta} \frac{1}{|S|} \sum_{b \in S} \log \sigma\left(-\beta \, r_b
              \right), \qquad r_b = \sum_{t \in A_b} \left(\log p_t - \log p_t^{ref}\right)

    with S the sequences that have a supervised token and A_b the supervised tokens of sequence b.
    Its gradient is that of gradient ascent on the sequence's summed log-probability, weighted by
    :math:`2 p^\beta / (p^\beta + p_{ref}^\beta)`: 1 at the reference, 0 once the sequence is
    forgotten.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`; those at t predict the label at t + 1.
        labels: int64 `[B, T]` in [0, V), or `ignore_index`. Do not shift them.
        reference_logits: the reference model's, as `logits`; a constant.
        reference_log_probs: in place of `reference_logits`, the reference's log-probabilities of
            the labels, computed once: floating `[B, T - 1]`, per token as
            `token_log_probs(reference_logits, labels).values` returns them (entry t belongs to
            `labels[:, t + 1]`; ignored ones are not read), or `[B]`, their sums over the
            supervised tokens. A constant.
        beta: inverse temperature, > 0 and finite. Default 0.1.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the sequences that have a supervised token (default; the paper's),
            "sum" over them, or "none": `[B]` with 0 where nothing is supervised.

    Returns:
        float32 (float64 for float64 logits), each sequence in [0, inf); (2 log 2)/beta at the
        reference. 0 with a zero gradient when the batch has no supervised token.

    Raises:
        ValueError: shapes that do not fit, none or both references, beta <= 0, an unknown
            reduction; on the CPU, a label outside [0, V).
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        Differences are taken per token and then summed; `log_sigmoid` neither overflows nor
        loses digits. The gradient is finite for finite logits; the value is as long as
        2 max(1, beta) r_b is a float32 (logits up to 1e37). Otherwise that of `token_log_probs`;
        never synchronises a device.

    Example:
        >>> import torch
        >>> from moopt.losses import npo_loss, token_log_probs
        >>> logits, labels = torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]])
        >>> npo_loss(logits, labels, reference_logits=logits, beta=1.0)
        tensor(1.3863)
        >>> reference = token_log_probs(logits, labels).values  # once, before training
        >>> npo_loss(logits, labels, reference_log_probs=reference, beta=1.0)
        tensor(1.3863)

    Source:
        R. Zhang, L. Lin, Y. Bai, S. Mei, Negative Preference Optimization: From Catastrophic
        Collapse to Effective Unlearning, COLM 2024, https://arxiv.org/abs/2404.05868.
    """
    check_ranges("npo_loss", beta=beta, reduction=reduction)
    name, reference = one_reference(reference_logits, reference_log_probs, caller="npo_loss")
    log_probs, mask = token_log_probs(logits, labels, ignore_index)
    if name == "reference_logits":
        same_shape(logits, reference, name, caller="npo_loss")
        reference = token_log_probs(reference.detach(), labels, ignore_index).values
    else:
        reference = _label_log_probs(reference, log_probs)
    if reference.ndim == 2:
        log_ratios = (log_probs - reference).where(mask, 0.0).sum(1)
    else:
        log_ratios = log_probs.sum(1) - reference
    values = nn.functional.logsigmoid(-beta * log_ratios) * (-2.0 / beta)
    supervised = mask.any(1)
    return reduce_supervised(values.where(supervised, 0.0), supervised, reduction)


def _label_log_probs(reference: Tensor, log_probs: Tensor) -> Tensor:
    """Check precomputed log-probabilities, `[B, T - 1]` or `[B]`, and return a constant."""
    shapes = [log_probs.shape, log_probs.shape[:1]]
    if reference.shape not in shapes:
        raise ValueError(
            f"`reference_log_probs` of `npo_loss` must have shape {list(shapes[0])}, one entry per"
            f" predicted token, or {list(shapes[1])}, their sums; got {list(reference.shape)}."
            " Compute them with `token_log_probs(reference_logits, labels).values`."
        )
    if not reference.is_floating_point():
        raise TypeError(
            f"`reference_log_probs` of `npo_loss` must be floating point; got {reference.dtype}."
            " Compute them with `token_log_probs(reference_logits, labels).values`."
        )
    return reference.detach().to(log_probs.dtype)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class NPOLoss(ReferencedLossModule):
    r"""Negative preference optimization on the forget set: `npo_loss`.

    .. math:: L = -\frac{2}{\beta} \frac{1}{|S|} \sum_{b \in S} \log \sigma\left(-\beta
              \sum_{t \in A_b} \left(\log p_t - \log p_t^{ref}\right)\right)

    Args:
        beta: inverse temperature, > 0 and finite. Default 0.1.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the sequences that have a supervised token (default), "sum" or
            "none".

    Shape:
        logits and reference_logits `[B, T, V]`, labels `[B, T]`, reference_log_probs `[B, T - 1]`
        or `[B]`; the result is a scalar, `[B]` for "none".

    Raises:
        ValueError: beta <= 0, an unknown reduction.

    Example:
        >>> import torch
        >>> from moopt.losses import NPOLoss
        >>> logits, labels = torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]])
        >>> NPOLoss(beta=1.0)(logits, labels, reference_logits=logits)
        tensor(1.3863)

    Source:
        As `npo_loss`.
    """

    beta: float = 0.1
    ignore_index: int = -100
    reduction: Reduction = "mean"

    function = staticmethod(npo_loss)
