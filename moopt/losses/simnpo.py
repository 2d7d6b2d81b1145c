"""SimNPO: negative preference optimization without a reference model."""

import dataclasses

from torch import Tensor, nn

from moopt.kernels.token_logprob import token_log_probs
from moopt.kernels.token_logprob.linear import Logits
from moopt.losses.base import LossModule, Reduction, check_ranges, reduce_supervised


def simnpo_loss(
    logits: Logits,
    labels: Tensor,
    *,
    beta: float = 4.5,
    gamma: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""SimNPO: NPO with the length-normalised log-probability in place of the reference ratio.

    .. math:: L = -\frac{2}{\beta} \frac{1}{|S|} \sum_{b \in S} \log \sigma\left(
              -\frac{\beta}{|A_b|} \sum_{t \in A_b} \log p_t - \gamma \right)

    with S the sequences that have a supervised token and A_b the supervised tokens of sequence b.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`; those at t predict the label at t + 1.
        labels: int64 `[B, T]` in [0, V), or `ignore_index`. Do not shift them.
        beta: inverse temperature, > 0 and finite. Default 4.5.
        gamma: margin, finite: the sequence counts as forgotten once beta times its mean negative
            log-likelihood is well above it. *Not* multiplied by beta. Default 0.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the sequences that have a supervised token (default; the paper's),
            "sum" over them, or "none": `[B]` with 0 where nothing is supervised.

    Returns:
        float32 (float64 for float64 logits), each sequence in
        (0, -(2/beta) log sigmoid(-gamma)]. 0 with a zero gradient when the batch has no supervised
        token.

    Raises:
        ValueError: shapes that do not fit, beta <= 0, gamma not finite, an unknown reduction; on
            the CPU, a label outside [0, V).
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        `log_sigmoid` neither overflows nor loses digits. Otherwise that of `token_log_probs`;
        never synchronises a device.

    Example:
        >>> import torch
        >>> from moopt.losses import simnpo_loss
        >>> simnpo_loss(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]), beta=1.0)
        tensor(0.4463)

    Source:
        C. Fan et al., Simplicity Prevails: Rethinking Negative Preference Optimization for LLM
        Unlearning, NeurIPS 2025, https://arxiv.org/abs/2410.07163. Public codes that multiply the
        margin by beta, or flip its sign, minimise something else.
    """
    check_ranges("simnpo_loss", beta=beta, gamma=gamma, reduction=reduction)
    log_probs, mask = token_log_probs(logits, labels, ignore_index)
    lengths = mask.sum(1, keepdim=True).clamp_min(1)
    mean_log_probs = (log_probs / lengths).sum(1)
    values = nn.functional.logsigmoid(-beta * mean_log_probs - gamma) * (-2.0 / beta)
    supervised = mask.any(1)
    return reduce_supervised(values.where(supervised, 0.0), supervised, reduction)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class SimNPOLoss(LossModule):
    r"""Reference-free negative preference optimization on the forget set: `simnpo_loss`.

    .. math:: L = -\frac{2}{\beta} \frac{1}{|S|} \sum_{b \in S} \log \sigma\left(
              -\frac{\beta}{|A_b|} \sum_{t \in A_b} \log p_t - \gamma \right)

    Args:
        beta: inverse temperature, > 0 and finite. Default 4.5.
        gamma: margin, finite, not multiplied by beta. Default 0.
        ignore_index: the label of tokens that are not supervised. Default -100.
        reduction: "mean" over the sequences that have a supervised token (default), "sum" or
            "none".

    Shape:
        logits `[B, T, V]`, labels `[B, T]`; the result is a scalar, `[B]` for "none".

    Raises:
        ValueError: beta <= 0, gamma not finite, an unknown reduction.

    Example:
        >>> import torch
        >>> from moopt.losses import SimNPOLoss
        >>> SimNPOLoss(beta=1.0)(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
        tensor(0.4463)

    Source:
        As `simnpo_loss`.
    """

    beta: float = 4.5
    gamma: float = 0.0
    ignore_index: int = -100
    reduction: Reduction = "mean"

    function = staticmethod(simnpo_loss)
