"""LinearLogits: logits that are never all in memory: the output layer is applied in chunks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from moopt.kernels.token_logprob.blocks import refuse_second_backward

# Elements of the logits of one chunk of rows: enough rows for a matrix product that is not held up
# by reading the output matrix, and little beside the whole.
CHUNK_ELEMENTS = 2**23


@dataclasses.dataclass(frozen=True, eq=False)
class LinearLogits:
    """Logits `hidden @ weight.T + bias` that stay a promise; pass them where a loss takes logits.

    `[B, T, V]` logits are most of the memory of a language model's step. A loss needs one number
    of each row, so the output layer is applied to some rows at a time, in the forward pass and
    again in the backward pass.

    Args:
        hidden: floating `[B, T, d]`, what the output layer is given.
        weight: `[V, d]`, its matrix; in the dtype of `hidden`.
        bias: `[V]`, or None.

    Raises:
        TypeError: `hidden` or `weight` is not a floating-point tensor, or their dtypes differ.
        ValueError: shapes that do not fit.

    Numerics: the products are those of the dtype, as in the layer itself; what follows is as for
        logits. The gradient of `weight` is added up in float32 for 16-bit dtypes. Differentiable
        once; one product more than with logits in memory, so the output layer takes about 4/3 of
        the time.

    Example:
        >>> import torch
        >>> from moopt.losses import LinearLogits, token_cross_entropy_loss
        >>> hidden, weight = torch.zeros(1, 3, 8), torch.zeros(4, 8)
        >>> token_cross_entropy_loss(LinearLogits(hidden, weight), torch.tensor([[-100, 1, 2]]))
        tensor(1.3863)

    Source: the idea of the fused linear cross-entropy of P.-L. Hsu et al., "Liger Kernel: Efficient
    Triton Kernels for LLM Training", 2024, https://arxiv.org/abs/2410.10989; here for every loss of
    this library, with the gradient formed in the backward pass.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "weight"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(
                    f"`{name}` of `LinearLogits` must be a floating-point tensor; got {got}. Pass"
                    " the last hidden states and model.lm_head.weight."
                )
        h, w, b = self.hidden, self.weight, self.bias
        if h.ndim != 3 or w.ndim != 2 or w.shape[1] != h.shape[2] or w.shape[0] == 0:
            raise ValueError(
                f"`LinearLogits` takes hidden [B, T, d] and weight [V, d]; got {list(h.shape)} and"
                f" {list(w.shape)}. Pass the matrix of torch.nn.Linear as it is."
            )
        if b is not None and b.shape != w.shape[:1]:
            raise ValueError(
                f"`bias` of `LinearLogits` must have shape [V] = [{len(w)}]; got {list(b.shape)}."
            )
        if w.dtype != h.dtype:
            raise TypeError(
                f"`weight` of `LinearLogits` must have the dtype of `hidden`, {h.dtype}; got"
                f" {w.dtype}. Convert one of them, as the layer would."
            )

    @property
    def shape(self) -> torch.Size:
        """`[B, T, V]`."""
        return torch.Size((*self.hidden.shape[:2], self.weight.shape[0]))

    @property
    def ndim(self) -> int:
        """3."""
        return 3

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return self.hidden.dtype

    def is_floating_point(self) -> bool:
        """True."""
        return True

    def detach(self) -> "LinearLogits":
        """The same logits as constants."""
        bias = None if self.bias is None else self.bias.detach()
        return LinearLogits(self.hidden.detach(), self.weight.detach(), bias)

    def rows(self, chunk: slice) -> Tensor:
        """The logits `[n, V]` of some of the `B * T` rows."""
        return torch.nn.functional.linear(self.hidden.flatten(0, 1)[chunk], self.weight, self.bias)


Logits = Tensor | LinearLogits
"""What a loss takes."""

RowValues = Callable[[Tensor, slice], Tensor]
"""From the logits `[n, V]` of a chunk of rows, and which rows these are, to values `[n]`."""

RowGradient = Callable[[Tensor, slice, Tensor], Tensor]
"""And with the gradient `[n]` of the values, to that of the logits, `[n, V]`."""


def linear_row_values(
    logits: LinearLogits, values: RowValues, gradient: RowGradient, mask: Tensor
) -> Tensor:
    """The values `[N]` of all rows, 0 where `mask` `[N]` is False, in chunks of rows."""
    result: Tensor = _LinearRows.apply(
        logits.hidden.flatten(0, 1), logits.weight, logits.bias, mask, values, gradient
    )
    return result


class _LinearRows(torch.autograd.Function):
    """Hidden rows `[N, d]`, weight `[V, d]`, bias `[V]` to values `[N]`, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor,
        values: RowValues,
        gradient: RowGradient,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, mask)
        ctx.gradient = gradient
        parts = [
            values(torch.nn.functional.linear(hidden[chunk], weight, bias), chunk)
            for chunk in _chunks(len(hidden), len(weight))
        ]
        return torch.cat(parts).where(mask, 0.0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_backward()
        hidden, weight, bias, mask = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        wide = torch.promote_types(weight.dtype, torch.float32)
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        of_bias = torch.zeros_like(weight[:, 0], dtype=wide) if wants_bias else None
        for chunk in _chunks(len(hidden), len(weight)):
            part = ctx.gradient(
                torch.nn.functional.linear(hidden[chunk], weight, bias), chunk, grad_output[chunk]
            )
            # Filled, not multiplied: what is at an ignored position may be NaN.
            part = part.masked_fill_(~mask[chunk, None], 0.0).to(weight.dtype)
            if of_hidden is not None:
                torch.mm(part, weight, out=of_hidden[chunk])
            if of_weight is not None:
                rows = hidden[chunk].masked_fill(~mask[chunk, None], 0.0)
                if wide == weight.dtype:
                    of_weight.addmm_(part.T, rows)
                else:
                    of_weight += part.T @ rows
            if of_bias is not None:
                of_bias += part.sum(0, dtype=wide)
        narrow = [None if g is None else g.to(weight.dtype) for g in (of_weight, of_bias)]
        return of_hidden, *narrow, None, None, None


def _chunks(count: int, width: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // width)
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]
