"""token_log_probs: the log-probability that a causal model gives to each label."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moopt.kernels.token_logprob.blocks import linear_log_probs
from moopt.kernels.token_logprob.chunks import compute_dtype, row_chunks
from moopt.kernels.token_logprob.linear import LinearLogits
from moopt.kernels.token_logprob.shift import shifted_targets


class TokenLogProbs(NamedTuple):
    """Per-token log-probabilities of the labels, with the mask of the supervised tokens.

    Attributes:
        values: float32 (float64 for float64 logits) `[B, T - 1]`, at most 0; exactly 0 where
            `mask` is False.
        mask: bool `[B, T - 1]`; entry t tells whether `labels[:, t + 1]` is supervised.

    Example:
        >>> import torch
        >>> from moopt.losses import token_log_probs
        >>> token_log_probs(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]])).mask
        tensor([[ True, False]])
    """

    values: Tensor
    mask: Tensor


def token_log_probs(
    logits: Tensor | LinearLogits, labels: Tensor, ignore_index: int = -100
) -> TokenLogProbs:
    r"""The log-probability of every label under the next-token distribution before it.

    .. math:: \log p_t = z_{t, y} - \log \sum_v e^{z_{t, v}}, \qquad y = \text{labels}_{t + 1}

    Args:
        logits: floating `[B, T, V]`, any finite values; a logit of -inf is a probability of 0. Or
            `LinearLogits`, which are computed in chunks and never all in memory.
        labels: int64 `[B, T]` in [0, V), or `ignore_index`. Not shifted: usually `input_ids` with
            the prompt and the padding replaced by `ignore_index`.
        ignore_index: the label of tokens that are not supervised. Default -100.

    Returns:
        `TokenLogProbs(values, mask)`, both `[B, T - 1]`. Finite logits give finite values. Sums
        need no mask, the values being 0 where it is False; probabilities do: `values[mask].exp()`.

    Raises:
        ValueError: shapes that do not fit; on the CPU, a label outside [0, V).
        TypeError: logits that are not floating point, labels that are not int64.

    Numerics:
        Works in float32 (float64 for float64 logits) on chunks of rows, in the forward and in the
        backward pass, and keeps nothing but the logits themselves in between: no float32 copy of
        `[B, T, V]` ever exists. Values saturate at the lowest finite number, so that p = 0 gives
        no infinity; the gradient stays the true one, `onehot(y) - softmax(z)`. What is at an
        ignored position, NaN included, reaches neither values nor gradients. Never synchronises a
        device, hence computes ignored rows too: selecting the others needs their number on the
        host. On a GPU a label outside [0, V) trips the device-side assertion of `gather`.
        Differentiable twice; works under `torch.func.vmap`, `grad` and `torch.compile`.

    Example:
        >>> import torch
        >>> from moopt.losses import token_log_probs
        >>> logits = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]])
        >>> token_log_probs(logits, torch.tensor([[0, 1]])).values.exp()
        tensor([[0.5000]])

    Source:
        The shift and the ignored label are those of causal language models in the transformers
        library; the derivations are in this folder's README.
    """
    targets, mask = shifted_targets(logits, labels, ignore_index, caller="token_log_probs")
    targets_of, mask_of = targets.flatten(), mask.flatten()
    try:
        if isinstance(logits, LinearLogits):
            hidden = logits.hidden.flatten(0, 1)
            values = linear_log_probs(hidden, logits.weight, logits.bias, targets_of, mask_of)
        else:
            values = _RowLogProbs.apply(logits.flatten(0, 1), targets_of, mask_of)
    except (IndexError, RuntimeError) as error:
        vocabulary = logits.shape[-1]
        if labels.device.type != "cpu" or ((targets >= 0) & (targets < vocabulary)).all():
            raise
        raise ValueError(
            f"`labels` of `token_log_probs` must lie in [0, {vocabulary}), the vocabulary of"
            f" `logits`, or equal ignore_index={ignore_index}; got values from"
            f" {int(targets.min())} to {int(targets.max())}. Does this model use this tokenizer?"
        ) from error
    return TokenLogProbs(values.view_as(mask)[:, :-1], mask[:, :-1])


def _values(rows: Tensor, targets: Tensor) -> Tensor:
    """The log-probabilities `[n]` of the targets, from logits `[n, V]`."""
    dtype = compute_dtype(rows.dtype)
    log_probs = rows.log_softmax(-1, dtype=dtype).gather(1, targets[:, None]).squeeze(1)
    return log_probs.clamp_min(torch.finfo(dtype).min)


def _gradient(rows: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """`scale * (onehot(target) - softmax(row))`, `[n, V]`."""
    part = rows.softmax(-1, dtype=compute_dtype(rows.dtype)) * -scale
    return part.scatter_add(1, targets[:, None], scale)


class _RowLogProbs(torch.autograd.Function):
    """Rows `[N, V]`, targets `[N]`, mask `[N]` to log-probabilities `[N]`, a chunk at a time."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        parts = [_values(rows[chunk], targets[chunk]) for chunk in row_chunks(rows)]
        return torch.cat(parts).where(mask, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        # Everything comes from saved *inputs* by differentiable operations, so that a second
        # backward pass is right; `new_empty` of the incoming gradient, so that vmap sees a batch.
        rows, targets, mask = ctx.saved_tensors
        gradient = grad_output.new_empty(rows.shape, dtype=rows.dtype)
        for chunk in row_chunks(rows):
            part = _gradient(rows[chunk], targets[chunk], grad_output[chunk, None])
            gradient[chunk] = part.masked_fill(~mask[chunk, None], 0.0)
        return gradient, None, None
