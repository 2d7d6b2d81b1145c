"""The Gramian of m rows of gradients, in plain PyTorch (and numpy's dot on the host).

Also between two lists of rows, and in a diagonal metric: both are float64 throughout.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain, combinations_with_replacement
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.kernels.fused import fused_form
from moopt.kernels.gathered import gathered, inner_products, rounding
from moopt.kernels.metric import ROUNDINGS, with_metric
from moopt.kernels.native import gramian_native, native_serves
from moopt.kernels.pieces import (
    Position,
    Rows,
    check_lengths,
    concatenated,
    groups,
    numel,
    positions,
)
from moopt.kernels.traced import is_traced

# Elements of one row that are looked at together. On the host m chunks and one product share
# the last-level cache; on a device a chunk is long enough to hide the launches.
_HOST_CHUNK = 1 << 18
_HOST_CHUNK_MANY_ROWS = 1 << 15
_DEVICE_CHUNK = 1 << 22
# Float32 sums run over one block only, then continue in float64. A dot product over the whole
# chunk, with its 4096 dependent additions per lane, is wrong by 1e-4 on a constant gradient.
_BLOCK = 1024
# A dot product of float32 runs in so many lanes (AVX2: four registers of eight), whose sums are
# added at its end.
_LANES = 32
# Shorter tensors are gathered into one buffer: below it, call overhead exceeds arithmetic.
_GATHER_BELOW = 1 << 16
# From here on one float64 matrix product of the gathered rows beats m (m + 1) / 2 dot products.
# (A float32 product chains its additions: blocks of 128 are already wrong by 2e-6.)
_MANY_ROWS = 16
# A float32 product loses at most the smallest normal number to underflow (denormals may be
# flushed); squared norms above numel times this keep that loss below 2^-30 of the result.
_UNDERFLOW_FLOOR = 2.0**-96
_HOST = torch.device("cpu")


@torch.no_grad()
def gramian(
    rows: Rows, others: Rows | None = None, *, metric: Sequence[Tensor | None] | None = None
) -> Tensor:
    """Inner products between m rows of gradients, `G_ij = sum_t <rows[i][t], rows[j][t]>`.

    With `others` those between the rows and k other rows over the same positions, and with
    `metric` those in a diagonal metric: `sum_t <rows[i][t], metric[t] * others[j][t]>`.
    A complex gradient counts as its real and imaginary parts: `Re(conj(g_i) . g_j)`.

    Args:
        rows: `m >= 1` sequences of `T` tensors; the entries of one position share their shape;
            dtypes and memory layouts may differ. None is a zero gradient.
        others: `k >= 1` sequences of `T` tensors more. Default: the rows themselves.
        metric: `T` real tensors of non-negative entries, each of the shape of its position's
            gradients or of shape `[]`; None where no row has a gradient. Adam's is
            `1 / (exp_avg_sq.sqrt() + eps)`. Default: ones.

    Returns:
        float64 `[m, m]` on the rows' device, exactly symmetric; `[m, k]` with `others`.

    Raises:
        ValueError: if rows disagree in length, shape or device, or the metric with them.
        TypeError: if a tensor is sparse or not floating point, or the metric is not real.

    Numerics:
        `|G_ij - exact| <= 1.1e-6 ||g_i|| ||g_j||` for float16, bfloat16 and float32 entries of any
        magnitude (1e-12 for float64 entries up to 1e150); `measured_gramian` says what was reached.
        Small rows in host memory (`moopt.kernels.dispatch`) are one float64 product. Of longer ones
        float32 blocks of 1024 are summed in float64 (16 rows and more: all in float64); rows whose
        squares leave the range of float32 are read a second time in float64. On a device
        everything is float64 and nothing synchronises. Each gradient is otherwise read once; the
        extra memory is one chunk per row. Non-finite gradients give non-finite entries.

        With `others` or a `metric` the sums are float64 on every device (compiled for CUDA, float32
        over 32 entries between two lists of rows or more than six rows), and the norms of the
        bound are those in the metric. The values of a metric are not checked, because reading
        them would make a device wait: each gradient is multiplied by the root of the metric, so a
        negative entry counts as NaN. An entry that is negative or not finite gives an inner
        product that is not finite, for every two rows that both have a gradient there.

    Example:
        >>> import torch
        >>> from moopt.kernels.gramian import gramian
        >>> a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])
        >>> gramian([[a, None], [b, torch.ones(2)]]).tolist()
        [[25.0, 4.0], [4.0, 3.0]]
        >>> gramian([[a], [b]], [[torch.ones(2)]], metric=[torch.tensor([1.0, 0.25])]).tolist()
        [[4.0], [0.25]]

    Source:
        Blocked accumulation: N. J. Higham, "The accuracy of floating point summation", SIAM
        Journal on Scientific Computing, 1993; block sums continue in float64.
    """
    whole = rows if others is None else [*rows, *others]
    entries = [g for row in whole for g in row]
    if is_traced(entries):
        check_lengths(whole, caller="gramian")
        k = 0 if others is None else len(others)
        product: Tensor = torch.ops.moopt.gramian(entries, len(rows), k=k, metric=metric)
        return product
    return measured_gramian(rows, others, metric=metric)[0]


@torch.no_grad()
def measured_gramian(
    rows: Rows, others: Rows | None = None, *, metric: Sequence[Tensor | None] | None = None
) -> tuple[Tensor, float]:
    """The `gramian` of the rows, and the rounding of its entries.

    Returns:
        The Gramian, and `noise` such that `|G_ij - exact| <= noise ||g_i|| ||g_j||`; the norms are
        those in the metric, and `g_j` is one of the others, where they are given.
    """
    if others is not None or metric is not None:
        return _general(rows, others, metric)
    checked = positions(rows, caller="gramian")
    matrix = gathered(list(zip(*checked, strict=True))) if checked else None
    if matrix is not None:
        return inner_products(matrix)
    device, m = _device_of(checked), len(rows)
    if device.type != "cpu":
        if fused_form("gramian", device, width=m, dtypes=_dtypes(checked)).name == "triton":
            from moopt.kernels.gramian.triton import gramian_triton

            return gramian_triton(checked, m, device)
        upper, narrow = _device_pass(checked, m, device), False
    elif native_serves(checked, m, wide_rows=4):
        return gramian_native(checked, m)
    else:
        upper, narrow = _host_gramian(checked, m)
    return _symmetric(upper), _noise(checked, narrow)


@numpy.errstate(all="ignore")  # infinity and NaN are the caller's to see
def _general(
    rows: Rows, others: Rows | None, metric: Sequence[Tensor | None] | None
) -> tuple[Tensor, float]:
    """Between two lists of rows, or in a metric: `measured_gramian`, in float64 throughout.

    Other rows, and then the metric, are further entries of each position.
    """
    if others is not None and len(others) == 0:
        raise ValueError(
            "`others` of `gramian` must hold at least one row; got none. Leave it out for the"
            " Gramian of the rows."
        )
    m = len(rows)
    checked = positions([*rows, *(others or ())], caller="gramian")
    device, dtypes = _device_of(checked), _dtypes(checked)
    shape = _Shape(m, None if others is None else len(others), metric is not None)
    if metric is not None:
        checked = with_metric(checked, [*rows, *(others or ())], metric)
    matrix = gathered(list(zip(*checked, strict=True))) if checked else None
    if matrix is not None:
        if shape.metric:
            matrix = matrix[:-1] * matrix[-1].sqrt()
        if shape.k is None:
            product, noise = inner_products(matrix)
        else:
            product, noise = matrix[:m] @ matrix[m:].T, rounding(matrix.shape[1], torch.float64)
        return product, noise + shape.metric * ROUNDINGS * rounding(1, torch.float64)
    if device.type == "cpu":
        total = _wide_pass(checked, shape, device, _HOST_CHUNK_MANY_ROWS, _host_product)
    else:
        options = {"cross": shape.k is not None, "metric": frozenset[torch.dtype]()}
        if shape.metric:
            options["metric"] = frozenset(p[-1].dtype for p in checked if p[-1] is not None)
        width = max(m, shape.k or 0)
        form = fused_form("gramian", device, width=width, dtypes=dtypes, **options)
        if form.name == "triton":
            from moopt.kernels.gramian.triton import gramian_triton

            return gramian_triton(checked, m, device, k=shape.k, metric=shape.metric)
        total = _wide_pass(checked, shape, device, _DEVICE_CHUNK, torch.bmm)
    total = _symmetric(total) if shape.k is None else total
    noise = _noise(checked, narrow=False)
    return total, noise + shape.metric * ROUNDINGS * rounding(1, torch.float64)


class _Shape(NamedTuple):
    """What the entries of a position are.

    Attributes:
        m: so many rows come first.
        k: so many others come next; None where the rows are paired with themselves.
        metric: whether the last entry is the metric.
    """

    m: int
    k: int | None = None
    metric: bool = False


def _device_of(checked: list[Position]) -> torch.device:
    return next((g.device for g in chain.from_iterable(checked) if g is not None), _HOST)


def _dtypes(checked: list[Position]) -> set[torch.dtype]:
    return {g.dtype for position in checked for g in position if g is not None}


def _symmetric(upper: Tensor) -> Tensor:
    return upper.triu() + upper.triu(1).T


def _noise(checked: list[Position], narrow: bool) -> float:
    """The rounding of one block, and that of the sum of the blocks, which is always float64."""
    n = sum(map(numel, checked))
    terms, dtype = (_BLOCK / _LANES, torch.float32) if narrow else (min(n, _BLOCK), torch.float64)
    return rounding(terms, dtype) + rounding(n / _BLOCK, torch.float64)


@numpy.errstate(all="ignore")  # an infinity is read again in float64, and then the caller's to see
def _host_gramian(checked: list[Position], m: int) -> tuple[Tensor, bool]:
    """Its upper triangle, and whether blocks were summed in float32."""
    if m < _MANY_ROWS:
        upper = _host_pass(checked, m)
        short = [p for p in checked if any(g is not None and g.dtype != torch.float64 for g in p)]
        floor = sum(map(numel, short)) * _UNDERFLOW_FLOOR
        # A row that is exactly zero has nothing to underflow; it is common (a hinge loss, a
        # divergence at its reference) and must not cost a second pass.
        if all(
            floor <= square < math.inf or (square == 0 and _is_zero(checked, i))
            for i, square in enumerate(upper.diagonal().tolist())
        ):
            return upper, floor > 0
    return _wide_pass(checked, _Shape(m), _HOST, _HOST_CHUNK_MANY_ROWS, _host_product), False


def _is_zero(checked: list[Position], row: int) -> bool:
    return not any(bool(g.any()) for position in checked if (g := position[row]) is not None)


def _host_pass(checked: list[Position], m: int) -> Tensor:
    """float64 `[m, m]` whose upper triangle is the Gramian's, from float32 blocks where they do.

    Long float32 and float64 tensors are multiplied where they lie; the rest is gathered and
    widened, one chunk per row at a time.
    """
    total = numpy.zeros((m, m))
    short = []
    for position in checked:
        if numel(position) > _HOST_CHUNK and _where_they_lie(position):
            flat = {
                i: g.view(-1).numpy(force=True) for i, g in enumerate(position) if g is not None
            }
            for start in range(0, numel(position), _HOST_CHUNK):
                stop = start + _HOST_CHUNK
                _add_products(total, {i: array[start:stop] for i, array in flat.items()})
        else:
            short.append(position)
    for group in groups(short, _HOST_CHUNK, alone=_GATHER_BELOW):
        used = [i for i in range(m) if any(piece[i] is not None for piece in group)]
        rows = {i: concatenated(group, i) for i in used}
        dtypes = {row.dtype for row in rows.values()}
        widened = torch.float64 if torch.float64 in dtypes else torch.float32
        _add_products(total, {i: row.to(widened).numpy(force=True) for i, row in rows.items()})
    return torch.from_numpy(total)


def _where_they_lie(position: Position) -> bool:
    """Whether numpy can multiply the tensors without a copy."""
    dtypes = {g.dtype for g in position if g is not None}
    plain = all(g is None or g.is_contiguous() for g in position)
    return plain and (dtypes == {torch.float32} or dtypes == {torch.float64})


def _add_products(total: NDArray[Any], arrays: dict[int, NDArray[Any]]) -> None:
    """Add the inner products of 1-D arrays of at most one chunk, keyed by their row.

    numpy's matrix product of [K, 1, 1024] and [K, 1024, 1] is K dot products in one call.
    """
    size, dtype = next((len(a), a.dtype) for a in arrays.values())
    full = size // _BLOCK * _BLOCK
    pairs = list(combinations_with_replacement(arrays, 2))
    lefts = {i: a[:full].reshape(-1, 1, _BLOCK) for i, a in arrays.items()}
    rights = {i: a[:full].reshape(-1, _BLOCK, 1) for i, a in arrays.items()}
    sums = numpy.empty((len(pairs), full // _BLOCK, 1, 1), dtype)
    for (i, j), out in zip(pairs, sums, strict=True):
        numpy.matmul(lefts[i], rights[j], out=out)
    inner = sums.sum(axis=(1, 2, 3), dtype="float64")
    if full < size:
        inner += [numpy.dot(arrays[i][full:], arrays[j][full:]) for i, j in pairs]
    for pair, value in zip(pairs, inner.tolist(), strict=True):
        total[pair] += value


def _device_pass(checked: list[Position], m: int, device: torch.device) -> Tensor:
    """As `_wide_pass`; no value ever reaches the host."""
    return _wide_pass(checked, _Shape(m), device, _DEVICE_CHUNK, torch.bmm)


def _host_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.from_numpy(numpy.matmul(left.numpy(), right.numpy()))


def _wide_pass(
    checked: list[Position],
    shape: _Shape,
    device: torch.device,
    chunk: int,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Gather float64 chunks and add up batched products."""
    m, k = shape.m, shape.k or 0
    chunk = min(chunk, -(-sum(map(numel, checked)) // _BLOCK) * _BLOCK)
    total = torch.zeros(m, k or m, dtype=torch.float64, device=device)
    buffer = torch.empty(m + k, chunk, dtype=torch.float64, device=device)
    for group in groups(checked, chunk):
        size = sum(map(numel, group))
        padded = -(-size // _BLOCK) * _BLOCK
        buffer[:, size:padded] = 0.0
        for i in range(m + k):
            buffer[i, :size] = concatenated(group, i)
        if shape.metric:
            buffer[:, :size] *= concatenated(group, m + k).double().sqrt()
        blocks = buffer[:, :padded].unflatten(1, (-1, _BLOCK)).transpose(0, 1)
        right = blocks[:, m:] if k else blocks
        total.add_(product(blocks[:, :m], right.transpose(1, 2)).sum(0))
    return total
