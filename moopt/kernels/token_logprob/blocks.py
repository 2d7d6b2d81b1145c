"""Log-probabilities of labels from an output layer that is applied to one block of it at a time.

A block of the vocabulary meets every row, so that its part of the matrix's gradient is written once
and never added to; what is kept of a row in between are the maximum and the logarithm of its sum.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from moopt.kernels.fused import fused_form
from moopt.kernels.token_logprob.chunks import compute_dtype

BLOCK_ELEMENTS = 2**18
"""Logits that are in memory at a time: 1 MiB of float32."""

BLOCK_ROWS = 2**8
"""Rows that a block meets at a time: so many that reading the block is nothing beside it."""

DEVICE_TIMES = 2
"""So many times the rows and logits where it is not the CPU: fewer products, each a launch."""


def linear_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, mask: Tensor
) -> Tensor:
    """The log-probabilities `[N]` of the targets under the softmax of `hidden @ weight.T + bias`.

    Args:
        hidden: `[N, d]`.
        weight: `[V, d]`.
        bias: `[V]`, or None.
        targets: int64 `[N]`, in [0, V).
        mask: bool `[N]`; where False the value is 0 and nothing comes through.
    """
    result: Tensor = _LinearLogProbs.apply(hidden, weight, bias, targets, mask)
    return result


class _LinearLogProbs(torch.autograd.Function):
    """In the forward pass one product, in the backward pass it again and two for the gradients."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, mask: Tensor
    ) -> Tensor:
        weight[:, 0].gather(0, targets)  # refuses a target outside the vocabulary
        chosen, shift, total = _sums(hidden, weight, bias, targets)
        total = total.log()
        log_probs = chosen - shift - total
        ctx.save_for_backward(hidden, weight, bias, targets, mask, shift, total, log_probs)
        return log_probs.clamp_min(torch.finfo(log_probs.dtype).min).where(mask, 0.0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_backward()
        hidden, weight, bias, targets, mask, shift, total, log_probs = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wide = compute_dtype(weight.dtype)
        scale = grad_output.where(mask, 0.0).to(shift.dtype)
        # 1 - p of the label. Its term is far larger than all others: a product that adds them up
        # one after another would round each of them to its size, so it goes by itself.
        of_label = (-log_probs.expm1() * scale).where(mask, 0.0)
        of_hidden = torch.zeros_like(hidden, dtype=wide) if wants_hidden else None
        of_weight = torch.empty_like(weight) if wants_weight else None
        of_bias = torch.zeros_like(weight[:, 0], dtype=wide) if wants_bias else None
        for block, rows in _tiles(weight, hidden):
            part = _logits(hidden, weight, bias, block, rows)
            part.sub_(shift[rows, None]).sub_(total[rows, None]).exp_().mul_(-scale[rows, None])
            # Filled, not multiplied: what is at an ignored position may be NaN.
            ignored = ~mask[rows, None]
            part.masked_fill_(ignored, 0.0)
            inside, place = _places(targets[rows], block)
            own = part.gather(1, place[:, None])[:, 0]
            if of_hidden is not None:
                part.scatter_(1, place[:, None], own.where(~inside, 0.0)[:, None])
                _add_product(of_hidden[rows], part.to(weight.dtype), weight[block])
            part.scatter_(1, place[:, None], torch.where(inside, of_label[rows], own)[:, None])
            if of_bias is not None:
                of_bias[block] += part.sum(0)
            if of_weight is not None:
                if rows.start == 0:
                    same = wide == weight.dtype
                    sums = of_weight[block] if same else torch.empty_like(weight[block], dtype=wide)
                    sums.zero_()
                kept = hidden[rows].masked_fill(ignored, 0.0)
                _add_product(sums, part.to(weight.dtype).T, kept)
                if wide != weight.dtype and rows.stop >= len(hidden):
                    of_weight[block] = sums
                del kept
            del part  # before the next tile is made: two of them would be alive at once
        if of_hidden is not None:
            for _, rows in _tiles(weight[:1], hidden):
                of_hidden[rows].addcmul_(of_label[rows, None], weight[targets[rows]].to(wide))
            of_hidden = of_hidden.to(weight.dtype)
        of_bias = None if of_bias is None else of_bias.to(weight.dtype)
        return of_hidden, of_weight, of_bias, None, None


def _sums(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the log-probabilities are made of, `[N]` each.

    The target's logit; the largest logit, 0 where it is -inf; the sum of the exponentials of the
    logits less that.
    """
    device = hidden.device
    narrow = hidden.dtype != torch.float64
    if narrow and fused_form("token_logprob", device, dtypes={hidden.dtype}).name == "triton":
        from moopt.kernels.token_logprob.triton import label_sums_triton

        return label_sums_triton(hidden, weight, bias, targets)
    dtype = compute_dtype(hidden.dtype)
    shift = hidden.new_full(targets.shape, -torch.inf, dtype=dtype)
    total, chosen = torch.zeros_like(shift), torch.zeros_like(shift)
    for block, rows in _tiles(weight, hidden):
        logits = _logits(hidden, weight, bias, block, rows)
        inside, place = _places(targets[rows], block)
        own = logits.gather(1, place[:, None])[:, 0]
        chosen[rows] = torch.where(inside, own, chosen[rows])
        before = shift[rows]
        after = torch.maximum(before, logits.amax(1))
        base = after.where(after > -torch.inf, 0.0)  # all of them so far are 0 probabilities
        part = logits.sub_(base[:, None]).exp_().sum(1)
        total[rows] = total[rows] * (before - base).exp() + part
        shift[rows] = after
        del logits
    return chosen, shift.where(shift > -torch.inf, 0.0), total


def refuse_second_backward() -> None:
    """Raise where a graph of the gradient is asked for, which would be lost in silence.

    Raises:
        RuntimeError: it is.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "LinearLogits can be differentiated once, and a graph of the gradient was asked for"
            " (create_graph=True). Pass the logits themselves: logits.rows(slice(None))."
        )


def _tiles(weight: Tensor, hidden: Tensor) -> Iterator[tuple[slice, slice]]:
    """Blocks of the vocabulary, and for each of them all rows, some at a time."""
    times = 1 if hidden.device.type == "cpu" else DEVICE_TIMES
    height = max(1, min(times * BLOCK_ROWS, len(hidden)))
    width = max(1, times * BLOCK_ELEMENTS // height)
    for start in range(0, len(weight), width):
        for first in range(0, max(len(hidden), 1), height):
            yield slice(start, start + width), slice(first, first + height)


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, block: slice, rows: slice
) -> Tensor:
    """The logits of one tile, in memory of their own."""
    part = linear(hidden[rows], weight[block], None if bias is None else bias[block])
    return part.to(compute_dtype(part.dtype))


def _places(targets: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Which targets lie in a block, and where; the others' place is one to be ignored."""
    place = targets - block.start
    inside = (place >= 0) & (place < block.stop - block.start)
    return inside, place.where(inside, 0)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
