"""The Gramian of m rows of gradients, in plain PyTorch (and numpy's dot on the host)."""

import functools
import math
from typing import Any

import numpy
import torch
from torch import Tensor

from moopt.kernels.gathered import gathered, inner_products, rounding
from moopt.kernels.pieces import Position, Rows, concatenated, flatten, pieces, positions

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


@torch.no_grad()
def gramian(rows: Rows) -> Tensor:
    """Inner products between m rows of gradients, `G_ij = sum_t <rows[i][t], rows[j][t]>`.

    A complex gradient counts as its real and imaginary parts: `Re(conj(g_i) . g_j)`.

    Args:
        rows: `m >= 1` sequences of `T` tensors; the entries of one position share their shape;
            dtypes and memory layouts may differ. None is a zero gradient.

    Returns:
        float64 `[m, m]` on the rows' device, exactly symmetric.

    Raises:
        ValueError: if rows disagree in length, shape or device.
        TypeError: if a tensor is sparse or not floating point.

    Numerics:
        `|G_ij - exact| <= 1.1e-6 ||g_i|| ||g_j||` for float16, bfloat16 and float32 entries of any
        magnitude (1e-12 for float64 entries up to 1e150); `measured_gramian` says what was reached.
        Small rows in host memory (`moopt.kernels.dispatch`) are one float64 product. Of longer ones
        float32 blocks of 1024 are summed in float64 (16 rows and more: all in float64); rows whose
        squares leave the range of float32 are read a second time in float64. On a device
        everything is float64 and nothing synchronises. Each gradient is otherwise read once; the
        extra memory is one chunk per row. Non-finite gradients give non-finite entries.

    Example:
        >>> import torch
        >>> from moopt.kernels.gramian import gramian
        >>> a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])
        >>> gramian([[a, None], [b, torch.ones(2)]]).tolist()
        [[25.0, 4.0], [4.0, 3.0]]

    Source:
        Blocked accumulation: N. J. Higham, "The accuracy of floating point summation", SIAM
        Journal on Scientific Computing, 1993; block sums continue in float64.
    """
    return measured_gramian(rows)[0]


@torch.no_grad()
def measured_gramian(rows: Rows) -> tuple[Tensor, float]:
    """The `gramian` of the rows, and the rounding of its entries.

    Returns:
        The Gramian, and `noise` such that `|G_ij - exact| <= noise ||g_i|| ||g_j||`.
    """
    checked = positions(rows, caller="gramian")
    matrix = gathered(list(zip(*checked, strict=True))) if checked else None
    if matrix is not None:
        return inner_products(matrix)
    device = next(
        (g.device for position in checked for g in position if g is not None), torch.device("cpu")
    )
    m = len(rows)
    if device.type != "cpu":
        upper, narrow = _device_pass(checked, m, device), False
    else:
        upper, narrow = _host_gramian(checked, m)
    return upper.triu() + upper.triu(1).T, _noise(checked, narrow)


def _noise(checked: list[Position], narrow: bool) -> float:
    """The rounding of one block, and that of the sum of the blocks, which is always float64."""
    n = sum(next((g.numel() for g in position if g is not None), 0) for position in checked)
    if narrow:
        within = rounding(_BLOCK / _LANES, torch.float32)
    else:
        within = rounding(min(n, _BLOCK), torch.float64)
    return within + rounding(n / _BLOCK, torch.float64)


def _host_gramian(checked: list[Position], m: int) -> tuple[Tensor, bool]:
    """Its upper triangle, and whether blocks were summed in float32."""
    many = m >= _MANY_ROWS
    upper = _HostPass(m, wide=many).run(checked)
    if many:
        return upper, False
    narrow = sum(
        next((g.numel() for g in position if g is not None and g.dtype != torch.float64), 0)
        for position in checked
    )
    squares = upper.diagonal().tolist()
    floor = narrow * _UNDERFLOW_FLOOR
    if all(floor <= square < math.inf for square in squares):
        return upper, narrow > 0
    # A row that is exactly zero has nothing to underflow; it is common (a hinge loss, a
    # divergence at its reference) and must not cost a second pass.
    doubtful = [i for i, square in enumerate(squares) if not floor <= square < math.inf]
    if all(squares[i] == 0 and _is_zero(checked, i) for i in doubtful):
        return upper, narrow > 0
    return _HostPass(m, wide=True).run(checked), False


def _is_zero(checked: list[Position], row: int) -> bool:
    return not any(bool(g.any()) for position in checked if (g := position[row]) is not None)


class _HostPass:
    """One pass over the rows in host memory.

    Long float32 and float64 tensors are multiplied where they lie, through numpy, whose matrix
    product of [K, 1, 1024] and [K, 1024, 1] is K dot products in one call. The rest is gathered
    and widened, one chunk per row at a time.
    """

    def __init__(self, m: int, *, wide: bool) -> None:
        import numpy

        self.numpy = numpy
        self.m = m
        self.wide = wide
        self.chunk = _HOST_CHUNK if m < _MANY_ROWS else _HOST_CHUNK_MANY_ROWS
        self.total = numpy.zeros((m, m))
        self.groups: dict[torch.dtype, list[Position]] = {}
        self.sizes: dict[torch.dtype, int] = {}
        self.buffers: dict[torch.dtype, Tensor] = {}

    def run(self, checked: list[Position]) -> Tensor:
        """Return float64 `[m, m]` whose upper triangle is the Gramian's."""
        # Overflow is not an error here: the caller sees the infinity and reads again in float64.
        with self.numpy.errstate(all="ignore"):
            for position in checked:
                self._add(position)
            for dtype in self.groups:
                self._flush(dtype)
        return torch.from_numpy(self.total)

    def _add(self, position: Position) -> None:
        present = [g for g in position if g is not None]
        if not present:
            return
        dtype, numel = present[0].dtype, present[0].numel()
        uniform = all(g.dtype == dtype for g in present)
        if not uniform:
            dtype = functools.reduce(torch.promote_types, (g.dtype for g in present))
        if numel < _GATHER_BELOW:
            self._gather(position, dtype, numel)
            return
        flat = flatten(position) if uniform and self.m < _MANY_ROWS else None
        if flat is not None:
            self._stream({i: g for i, g in enumerate(flat) if g is not None}, dtype, numel)
            return
        for piece in pieces(position, self.chunk):
            self._gather(piece, dtype, next(g.numel() for g in piece if g is not None))

    def _stream(self, flat: dict[int, Tensor], dtype: torch.dtype, numel: int) -> None:
        """Multiply long 1-D tensors chunk by chunk, where they lie if their dtype allows it."""
        widened = self._widened(dtype)
        if dtype == widened:
            arrays = {i: _array(g) for i, g in flat.items()}
            for start in range(0, numel, self.chunk):
                self._multiply({i: a[start : start + self.chunk] for i, a in arrays.items()})
            return
        buffer = self._buffer(widened)
        arrays = {i: _array(buffer[i]) for i in flat}
        for start in range(0, numel, self.chunk):
            size = min(self.chunk, numel - start)
            for i, g in flat.items():
                buffer[i, :size].copy_(g[start : start + size])
            self._multiply({i: a[:size] for i, a in arrays.items()})

    def _gather(self, piece: Position, dtype: torch.dtype, numel: int) -> None:
        if self.sizes.get(dtype, 0) + numel > self.chunk:
            self._flush(dtype)
        self.groups.setdefault(dtype, []).append(piece)
        self.sizes[dtype] = self.sizes.get(dtype, 0) + numel

    def _flush(self, dtype: torch.dtype) -> None:
        group, size = self.groups[dtype], self.sizes[dtype]
        self.groups[dtype], self.sizes[dtype] = [], 0
        if size == 0:
            return
        widened = self._widened(dtype)
        used = [i for i in range(self.m) if any(piece[i] is not None for piece in group)]
        if self.m < _MANY_ROWS:
            flat = {i: concatenated(group, i) for i in used}
            # A row of a group of mixed dtypes may be narrower than the group.
            if any(g.dtype != widened for g in flat.values()):
                buffer = self._buffer(widened)
                flat = {i: buffer[i, :size].copy_(g) for i, g in flat.items()}
            self._multiply({i: _array(g) for i, g in flat.items()})
            return
        padded = -(-size // _BLOCK) * _BLOCK
        buffer = self._buffer(widened)[:, :padded]
        buffer[:, size:] = 0.0
        for i in range(self.m):
            buffer[i, :size] = concatenated(group, i) if i in used else 0.0
        blocks = buffer.numpy().reshape(self.m, -1, _BLOCK).transpose(1, 0, 2)
        product = self.numpy.matmul(blocks, blocks.transpose(0, 2, 1))
        self.total += product.sum(axis=0, dtype="float64")

    def _widened(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float64 if self.wide or dtype == torch.float64 else torch.float32

    def _buffer(self, dtype: torch.dtype) -> Tensor:
        # One buffer for the whole pass: a fresh one costs a page fault every 4 KiB.
        if dtype not in self.buffers:
            self.buffers[dtype] = torch.empty(self.m, self.chunk, dtype=dtype)
        return self.buffers[dtype]

    def _multiply(self, arrays: dict[int, numpy.ndarray[Any, Any]]) -> None:
        """Add the inner products of 1-D arrays of at most one chunk, keyed by their row."""
        numpy, indices = self.numpy, list(arrays)
        size = len(arrays[indices[0]])
        full = size // _BLOCK * _BLOCK
        pairs = [(a, b) for a in range(len(indices)) for b in range(a, len(indices))]
        inner = numpy.zeros(len(pairs))
        if full:
            lefts = [arrays[i][:full].reshape(-1, 1, _BLOCK) for i in indices]
            rights = [arrays[i][:full].reshape(-1, _BLOCK, 1) for i in indices]
            sums = numpy.empty((len(pairs), full // _BLOCK, 1, 1), dtype=lefts[0].dtype)
            for p, (a, b) in enumerate(pairs):
                numpy.matmul(lefts[a], rights[b], out=sums[p])
            inner += sums.sum(axis=(1, 2, 3), dtype="float64")
        if size > full:
            tails = [arrays[i][full:] for i in indices]
            inner += [numpy.dot(tails[a], tails[b]) for a, b in pairs]
        for (a, b), value in zip(pairs, inner.tolist(), strict=True):
            self.total[indices[a], indices[b]] += value


def _array(flat: Tensor) -> numpy.ndarray[Any, Any]:
    array: numpy.ndarray[Any, Any] = flat.detach().resolve_neg().numpy()
    return array


def _device_pass(checked: list[Position], m: int, device: torch.device) -> Tensor:
    """Gather float64 chunks and add up batched products; no value ever reaches the host."""
    chunk = _DEVICE_CHUNK
    total = torch.zeros(m, m, dtype=torch.float64, device=device)
    longest = sum(next((g.numel() for g in p if g is not None), 0) for p in checked)
    chunk = min(chunk, -(-longest // _BLOCK) * _BLOCK)
    buffer = torch.empty(m, chunk, dtype=torch.float64, device=device)
    group: list[Position] = []
    size = 0

    def flush() -> None:
        if size == 0:
            return
        padded = -(-size // _BLOCK) * _BLOCK
        buffer[:, size:padded] = 0.0
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        start = 0
        for piece in group:
            first = next(g for g in piece if g is not None)
            for i, g in enumerate(piece):
                target = buffer[i, start : start + first.numel()]
                if g is None:
                    target.zero_()
                else:
                    targets.append(target.view(g.shape))
                    sources.append(g)
            start += first.numel()
        torch._foreach_copy_(targets, sources)
        blocks = buffer[:, :padded].unflatten(1, (-1, _BLOCK)).transpose(0, 1)
        total.add_(torch.bmm(blocks, blocks.transpose(1, 2)).sum(0))

    for position in checked:
        for piece in pieces(position, chunk):
            numel = next(g.numel() for g in piece if g is not None)
            if size + numel > chunk:
                flush()
                group, size = [], 0
            group.append(piece)
            size += numel
    flush()
    return total
