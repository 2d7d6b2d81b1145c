"""Log-probabilities of labels from hidden states and an output matrix, in one Triton launch."""

from collections.abc import Collection
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from moopt.kernels.token_logprob.gate import token_logprob_gate


class Shape(NamedTuple):
    """Of a program's tile of logits, of the parts of its products, and how it runs."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


SHAPES = {
    torch.bfloat16: Shape(128, 128, 64, 8, 3),
    torch.float16: Shape(128, 128, 64, 8, 3),
    torch.float32: Shape(64, 64, 32, 8, 3),
}
"""For each dtype of the products; others have no fused form."""

INTERPRETED = Shape(32, 32, 16, 4, 1)

PROGRAMS = 2
"""For each multiprocessor: the vocabulary is divided among so many."""


def label_sums_triton(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the log-probabilities of the labels are made of; no logits are written to memory.

    Args:
        hidden: `[N, d]` in a dtype of `SHAPES`, that of the products.
        weight: `[V, d]`, floating.
        bias: `[V]`, or None.
        targets: int64 `[N]`, in [0, V).

    Returns:
        float32 `[N]` each: the label's logit; the largest logit, 0 where it is -inf; the sum of the
        exponentials of the logits less that.
    """
    (count, width), vocabulary = hidden.shape, len(weight)
    on_card = hidden.device.type == "cuda"
    shape = SHAPES[hidden.dtype] if on_card else INTERPRETED
    row_blocks = triton.cdiv(count, shape.rows)
    blocks = triton.cdiv(vocabulary, shape.columns)
    wanted = 6
    if on_card:
        properties = torch.cuda.get_device_properties(hidden.device)
        wanted = PROGRAMS * properties.multi_processor_count
    each = triton.cdiv(blocks, max(1, min(blocks, wanted // max(row_blocks, 1))))
    parts = triton.cdiv(blocks, each)
    own, largest, total = hidden.new_empty(3, parts, count, dtype=torch.float32)
    if hidden.stride(1) != 1:
        hidden = hidden.contiguous()
    if weight.stride(1) != 1:
        weight = weight.contiguous()
    if count:
        label_kernel[(row_blocks, parts)](
            hidden,
            weight,
            weight if bias is None else bias,
            targets,
            own,
            largest,
            total,
            count,
            vocabulary,
            width,
            hidden.stride(0),
            weight.stride(0),
            each,
            HAS_BIAS=bias is not None,
            ROWS=shape.rows,
            COLUMNS=shape.columns,
            DEPTH=shape.depth,
            EVEN=width % shape.depth == 0,
            PRECISION="tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
            WIDEN=not on_card,
            num_warps=shape.warps,
            num_stages=shape.stages,
        )
    shift = largest.amax(0)
    shift = shift.masked_fill_(shift == -torch.inf, 0.0)
    return own.sum(0), shift, (total * (largest - shift).exp_()).sum(0)


def probe(
    device: torch.device, width: int | None = None, dtypes: Collection[torch.dtype] = ()
) -> str:
    """What differs from float64 on small cases with every kind of border; empty if nothing.

    Args:
        device: where the rows are made.
        width: nothing depends on it here.
        dtypes: of the products; none means all.
    """
    tried = [dtype for dtype in SHAPES if not dtypes or dtype in dtypes]
    return token_logprob_gate(label_sums_triton, device, tried)


@triton.jit
def label_kernel(
    hidden,
    weight,
    bias,
    targets,
    owns,
    largests,
    totals,
    count,
    vocabulary,
    width,
    hidden_stride,
    weight_stride,
    each,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Some rows, and `each` blocks of columns; the parts of a row are put together by the host."""
    TYPE: tl.constexpr = hidden.dtype.element_ty
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    lanes = tl.arange(0, COLUMNS)
    depths = tl.arange(0, DEPTH)
    is_row = rows < count
    target = tl.load(targets + rows, mask=is_row, other=-1)
    left = hidden + rows.to(tl.int64)[:, None] * hidden_stride + depths[None, :]
    own = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    blocks = tl.minimum(tl.cdiv(vocabulary, COLUMNS) - part * each, each)
    for block in range(blocks):
        columns = (part * each + block) * COLUMNS + lanes
        is_column = columns < vocabulary
        right = weight + columns.to(tl.int64)[None, :] * weight_stride + depths[:, None]
        logits = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, width, DEPTH):
            if EVEN:
                x = tl.load(left + start, mask=is_row[:, None], other=0.0)
                y = tl.load(right + start, mask=is_column[None, :], other=0.0)
            else:
                is_depth = depths < width - start
                x = tl.load(left + start, mask=is_row[:, None] & is_depth[None, :], other=0.0)
                y = tl.load(right + start, mask=is_column[None, :] & is_depth[:, None], other=0.0)
            y = y.to(TYPE)
            if WIDEN:  # Triton's interpreter multiplies the bits of bfloat16
                x, y = x.to(tl.float32), y.to(tl.float32)
            logits = tl.dot(x, y, logits, input_precision=PRECISION)
        if HAS_BIAS:
            added = tl.load(bias + columns, mask=is_column, other=0.0)
            logits += added.to(TYPE).to(tl.float32)[None, :]
        logits = logits.to(TYPE).to(tl.float32)  # as the layer rounds them
        own += tl.sum(tl.where(columns[None, :] == target[:, None], logits, 0.0), 1)
        logits = tl.where(is_column[None, :], logits, float("-inf"))
        risen = tl.maximum(largest, tl.max(logits, 1))
        shift = tl.where(risen == float("-inf"), 0.0, risen)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
        largest = risen
    place = part.to(tl.int64) * count + rows
    tl.store(owns + place, own, mask=is_row)
    tl.store(largests + place, largest, mask=is_row)
    tl.store(totals + place, total, mask=is_row)
