"""token_kl_divergences: Kullback-Leibler divergences between two next-token distributions."""

from typing import Any

import torch
from torch import Tensor

from moopt.kernels.token_logprob.chunks import compute_dtype, row_chunks
from moopt.kernels.token_logprob.linear import LinearLogits, linear_row_values
from moopt.kernels.token_logprob.reference import TokenLogProbs
from moopt.kernels.token_logprob.shift import same_shape, shifted_targets


def token_kl_divergences(
    logits: Tensor | LinearLogits,
    reference_logits: Tensor | LinearLogits,
    labels: Tensor,
    *,
    reverse: bool = False,
    ignore_index: int = -100,
) -> TokenLogProbs:
    r"""The divergence between a model's and its reference's prediction of each supervised token.

    .. math:: \mathrm{KL}(r_t \| p_t) = \sum_v r_{t,v} (\log r_{t,v} - \log p_{t,v})

    with p and r the softmax of the two logits; `reverse` swaps p and r.

    Args:
        logits: floating `[B, T, V]`, or `LinearLogits`.
        reference_logits: floating `[B, T, V]`, or `LinearLogits` where `logits` are; a constant:
            never differentiated. Log-probabilities are logits too, whose softmax they are.
        labels: int64 `[B, T]`; only says which tokens are supervised.
        reverse: KL(model || reference) in place of KL(reference || model). Default False.
        ignore_index: the label of tokens that are not supervised. Default -100.

    Returns:
        `TokenLogProbs(values, mask)`, both `[B, T - 1]`; the values are divergences >= 0.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        As `token_log_probs`: float32 chunks, no float32 copy of `[B, T, V]`, no synchronisation,
        nothing leaks from ignored positions. Log-probabilities saturate at a quarter of the lowest
        finite number, so that 0 log 0 is 0 and no sum overflows. Equal logits give exactly 0,
        value and gradient; rounding below 0 is clipped, because a divergence may be a divisor.

    Source:
        S. Kullback and R. Leibler, On Information and Sufficiency, Ann. Math. Stat. 1951.
    """
    same_shape(logits, reference_logits, "reference_logits", caller="token_kl_divergences")
    _, mask = shifted_targets(logits, labels, ignore_index, caller="token_kl_divergences")
    constant = reference_logits.detach()
    if isinstance(logits, LinearLogits):

        def reference(chunk: slice) -> Tensor:
            if isinstance(constant, LinearLogits):
                return constant.rows(chunk)
            return constant.flatten(0, 1)[chunk]

        divergences = linear_row_values(
            logits,
            lambda rows, chunk: _values(rows, reference(chunk), reverse),
            lambda rows, chunk, scale: _gradient(rows, reference(chunk), scale[:, None], reverse),
            mask.flatten(),
        )
    elif isinstance(constant, LinearLogits):
        raise TypeError(
            "`reference_logits` may be LinearLogits where `logits` are; got a tensor of logits."
            " Pass both in one form."
        )
    else:
        divergences = _RowDivergences.apply(
            logits.flatten(0, 1), constant.flatten(0, 1), mask.flatten(), reverse
        )
    return TokenLogProbs(divergences.view_as(mask)[:, :-1], mask[:, :-1])


def _log_softmaxes(rows: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(rows.dtype)
    # A quarter: differences of two, their mean, and a difference less the mean stay finite.
    lowest = torch.finfo(dtype).min / 4
    log_p = rows.log_softmax(-1, dtype=dtype).clamp_min(lowest)
    return log_p, reference.log_softmax(-1, dtype=dtype).clamp_min(lowest)


def _values(rows: Tensor, reference: Tensor, reverse: bool) -> Tensor:
    """The divergences `[n]` of two rows of logits `[n, V]` each."""
    return _divergences(*_log_softmaxes(rows, reference), reverse)


def _gradient(rows: Tensor, reference: Tensor, scale: Tensor, reverse: bool) -> Tensor:
    """`scale` times the derivative of the divergences in `rows`, `[n, V]`."""
    if reverse:
        log_p, log_r = _log_softmaxes(rows, reference)
        divergence = _divergences(log_p, log_r, True)[:, None]
        return log_p.exp() * (log_p - log_r - divergence) * scale
    dtype = compute_dtype(rows.dtype)
    return (rows.softmax(-1, dtype=dtype) - reference.softmax(-1, dtype=dtype)) * scale


def _divergences(log_p: Tensor, log_r: Tensor, reverse: bool) -> Tensor:
    first, second = (log_p, log_r) if reverse else (log_r, log_p)
    return (first.exp() * (first - second)).sum(-1).clamp_min(0.0)


class _RowDivergences(torch.autograd.Function):
    """Rows `[N, V]`, reference rows `[N, V]`, mask `[N]` to divergences `[N]`, in chunks."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, reference: Tensor, mask: Tensor, reverse: bool) -> Tensor:
        parts = [_values(rows[c], reference[c], reverse) for c in row_chunks(rows)]
        return torch.cat(parts).where(mask, 0.0)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor
    ) -> None:
        *tensors, ctx.reverse = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        rows, reference, mask = ctx.saved_tensors
        gradient = grad_output.new_empty(rows.shape, dtype=rows.dtype)
        for chunk in row_chunks(rows):
            part = _gradient(rows[chunk], reference[chunk], grad_output[chunk, None], ctx.reverse)
            gradient[chunk] = part.masked_fill(~mask[chunk, None], 0.0)
        return gradient, None, None, None
