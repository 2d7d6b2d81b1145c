"""The weighted sum of m rows of gradients, in plain PyTorch and in place."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.kernels.pieces import Position, Rows, concatenated, flatten, pieces, positions

# Elements of one row that are widened or grouped together: they stay in the last-level cache
# between the m passes over them (on a device: long enough to hide the launches).
_HOST_CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 22
# Longer tensors gain nothing from being grouped; the host walks them in parts of this length.
_LONG = 1 << 19
# Outside this range a weight, or its product with a moderate gradient, leaves the normal
# numbers of float32; the host then computes in float64.
_SMALLEST_FLOAT32_WEIGHT = 2.0**-120
_LARGEST_FLOAT32_WEIGHT = 2.0**120


@torch.no_grad()
def combine_(rows: Rows, weights: Tensor | Sequence[float]) -> list[Tensor | None]:
    """Combine m rows of gradients in place, `d_t = sum_i weights[i] rows[i][t]`.

    Every `d_t` is written into the storage of the first row that has a tensor at position t,
    so no memory beyond one chunk is used. The rows are consumed: their first tensors are
    overwritten. Where that storage is shared with another gradient (autograd may hand the same
    tensor to two parameters, or an expanded one), `d_t` gets storage of its own instead.

    Args:
        rows: `m >= 1` sequences of `T` tensors; the entries of one position share their shape.
            None is a zero gradient.
        weights: `[m]` of any sign; numbers, or float64 in host memory or on the rows' device.

    Returns:
        The `T` tensors of the direction, in the dtype and memory layout of the first row's;
        None where every row has None.

    Raises:
        ValueError: if rows disagree in length, shape or device, or `weights` is not `[m]`.
        TypeError: if a tensor is sparse or not floating point.

    Numerics:
        16-bit gradients accumulate in float32 and are rounded once; others accumulate in their
        own dtype. Weight 0 times infinity or NaN is NaN, so overflow stays visible. One row with
        weight 1 comes back bit for bit. On a device nothing synchronises, and weights take part
        in the accumulation's dtype: keep them between 1e-36 and 1e36 for float32.

    Example:
        >>> import torch
        >>> from moopt.kernels.combine import combine_
        >>> a, b = torch.tensor([4.0, 0.0]), torch.tensor([0.0, 8.0])
        >>> direction = combine_([[a, None], [b, None]], torch.tensor([0.5, 0.25]))
        >>> direction, direction[0] is a
        ([tensor([2., 2.]), None], True)

    Source:
        The common-descent step of J.-A. Désidéri, "Multiple-gradient descent algorithm (MGDA)
        for multiobjective optimization", Comptes Rendus Mathématique, 2012; any weights.
    """
    shape = list(weights.shape) if isinstance(weights, Tensor) else [len(weights)]
    if shape != [len(rows)]:
        raise ValueError(
            f"`weights` of `combine_` must have shape [m] = [{len(rows)}], one weight per row; got"
            f" {shape}. Pass the weights of one weighting call."
        )
    direction, checked = _targets(rows)
    on_host = all(g is None or g.device.type == "cpu" for g in direction)
    if not isinstance(weights, Tensor):
        weights = list(map(float, weights))
    elif weights.device.type == "cpu":
        weights = weights.tolist()
    _Combination(checked, weights, on_host=on_host).run()
    return direction


def _targets(rows: Rows) -> tuple[list[Tensor | None], list[Position]]:
    """Return what `combine_` returns, before it is written, and the checked rows over it."""
    checked = positions(rows, caller="combine_")
    direction = [
        next((g for g in entries if g is not None), None) for entries in zip(*rows, strict=True)
    ]
    for t in _entangled(checked):
        first = direction[t]
        assert first is not None
        # Conjugation and negation bits would come along with the data of a plain clone.
        direction[t] = first.resolve_conj().resolve_neg().clone()
        index = next(i for i, g in enumerate(checked[t]) if g is not None)
        checked[t][index] = _real(direction[t])
    return direction, checked


def _real(tensor: Tensor | None) -> Tensor | None:
    return torch.view_as_real(tensor) if tensor is not None and tensor.is_complex() else tensor


def _entangled(checked: list[Position]) -> list[int]:
    """Return the positions whose first tensor cannot be overwritten without harm.

    It overlaps itself (expanded), or shares memory with another gradient of any row.
    """
    spans: list[tuple[int, int, int]] = []
    harmed: set[int] = set()
    for t, position in enumerate(checked):
        target = True
        for g in position:
            if g is None:
                continue
            start = g.data_ptr()
            if g.is_contiguous():
                length = g.numel()
            else:
                dense, length = _extent(g)
                if target and not dense:
                    harmed.add(t)
            if length:
                spans.append((start, start + length * g.element_size(), t if target else -1))
            target = False
    spans.sort()
    reach, owner = -1, -1
    for start, stop, t in spans:
        if start < reach:
            harmed.update(p for p in (owner, t) if p >= 0)
        if stop > reach:
            reach, owner = stop, t
    return sorted(harmed)


def _extent(tensor: Tensor) -> tuple[bool, int]:
    """Return (whether no two elements share memory, elements from the first to the last)."""
    reach, disjoint = 1, True
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            disjoint = disjoint and stride >= reach
            reach += stride * (size - 1)
    return disjoint, reach


class _Combination:
    """One pass over the rows: pieces are collected up to one chunk, then combined together.

    Args:
        checked: what `positions` returned.
        weights: float64 `[m]`, or numbers where the host knows them.
        on_host: whether the rows are in host memory.
    """

    def __init__(
        self, checked: list[Position], weights: Tensor | list[float], *, on_host: bool
    ) -> None:
        self.checked = checked
        self.m = len(weights)
        self.on_host = on_host
        self.chunk = _HOST_CHUNK if on_host else _DEVICE_CHUNK
        self.weights = weights
        self.wide = isinstance(weights, list) and any(
            w != 0 and not _SMALLEST_FLOAT32_WEIGHT <= abs(w) <= _LARGEST_FLOAT32_WEIGHT
            for w in weights
        )
        self.groups: dict[tuple[torch.dtype, bool], list[Position]] = {}
        self.sizes: dict[tuple[torch.dtype, bool], int] = {}
        self.buffers: dict[torch.dtype, Tensor] = {}

    def run(self) -> None:
        """Overwrite the first tensor of every position with the weighted sum."""
        for position in self.checked:
            present = [i for i, g in enumerate(position) if g is not None]
            if present and not self._is_identity(present):
                self._add(position)
        for key in self.groups:
            self._flush(key)

    def _is_identity(self, present: list[int]) -> bool:
        return (
            isinstance(self.weights, list) and len(present) == 1 and self.weights[present[0]] == 1.0
        )

    def _add(self, position: Position) -> None:
        present = [g for g in position if g is not None]
        dtypes = {g.dtype for g in present}
        accumulated = functools.reduce(torch.promote_types, dtypes, torch.float32)
        if self.wide:
            accumulated = torch.float64
        in_place = dtypes == {accumulated}
        numel = present[0].numel()
        if in_place and numel > _LONG:
            self._combine_long(position, numel)
        elif numel <= self.chunk:
            self._collect(position, numel, (accumulated, in_place))
        else:
            for piece in pieces(position, self.chunk):
                numel = next(g.numel() for g in piece if g is not None)
                self._collect(piece, numel, (accumulated, in_place))

    def _collect(self, piece: Position, numel: int, key: tuple[torch.dtype, bool]) -> None:
        if self.sizes.get(key, 0) + numel > self.chunk:
            self._flush(key)
        self.groups.setdefault(key, []).append(piece)
        self.sizes[key] = self.sizes.get(key, 0) + numel

    def _flush(self, key: tuple[torch.dtype, bool]) -> None:
        group, size = self.groups.get(key, []), self.sizes.get(key, 0)
        self.groups[key], self.sizes[key] = [], 0
        accumulated, in_place = key
        if size and in_place:
            self._combine_in_place(group, accumulated)
        elif size:
            self._combine_widened(group, size, accumulated)

    def _combine_long(self, position: Position, numel: int) -> None:
        flat = flatten(position) if self.on_host else None
        parts = [position]
        if flat is not None:
            # Part by part, so that the target stays in the cache between the m passes.
            starts = range(0, numel, _LONG)
            parts = [[None if g is None else g[s : s + _LONG] for g in flat] for s in starts]
        for part in parts:
            target: Tensor | None = None
            for i, gradient in enumerate(part):
                if gradient is None:
                    continue
                factor = self._factor(i, gradient.dtype)
                if target is None:
                    target = gradient.mul_(factor)
                elif isinstance(factor, float):
                    target.add_(gradient, alpha=factor)
                else:
                    target.addcmul_(gradient, factor)

    def _factor(self, row: int, dtype: torch.dtype) -> float | Tensor:
        weight = self.weights[row]
        return weight.to(dtype) if isinstance(weight, Tensor) else weight

    def _combine_in_place(self, group: list[Position], dtype: torch.dtype) -> None:
        targets: list[Tensor | None] = [None] * len(group)
        for i in range(self.m):
            fresh: list[Tensor] = []
            summed: list[Tensor] = []
            added: list[Tensor] = []
            for p, piece in enumerate(group):
                gradient, target = piece[i], targets[p]
                if gradient is None:
                    continue
                if target is None:
                    targets[p] = gradient
                    fresh.append(gradient)
                else:
                    summed.append(target)
                    added.append(gradient)
            factor = self._factor(i, dtype)
            if fresh:
                torch._foreach_mul_(fresh, factor)
            if summed and isinstance(factor, float):
                torch._foreach_add_(summed, added, alpha=factor)
            elif summed:
                torch._foreach_add_(summed, torch._foreach_mul(added, factor))

    def _combine_widened(self, group: list[Position], size: int, dtype: torch.dtype) -> None:
        targets = [next(g for g in piece if g is not None) for piece in group]
        total, term = self._buffer(dtype, targets[0].device)[:, :size]
        started = False
        for i in range(self.m):
            if all(piece[i] is None for piece in group):
                continue
            out = term if started else total
            out.copy_(concatenated(group, i))
            factor = self._factor(i, dtype)
            if not started:
                out.mul_(factor)
            elif isinstance(factor, float):
                total.add_(term, alpha=factor)
            else:
                total.addcmul_(term, factor)
            started = True
        parts = torch._C._nn.unflatten_dense_tensors(total, targets)
        torch._foreach_copy_(targets, list(parts))

    def _buffer(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        if dtype not in self.buffers:
            self.buffers[dtype] = torch.empty(2, self.chunk, dtype=dtype, device=device)
        return self.buffers[dtype]
