"""The weighted sum of m rows of gradients, in plain PyTorch and in place."""

import functools
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from moopt.kernels.dispatch import LARGEST_GATHERED
from moopt.kernels.fused import fused_form
from moopt.kernels.gathered import first_of
from moopt.kernels.native import combine_native_, native_form
from moopt.kernels.pieces import (
    Position,
    Rows,
    check_lengths,
    concatenated,
    first_in,
    groups,
    numel,
    positions,
)
from moopt.kernels.traced import is_traced

# Elements of one row that are widened or grouped together: they stay in the last-level cache
# between the m passes over them (on a device: long enough to hide the launches).
_HOST_CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 22
# The same where nothing is widened and a longer part saves calls, on the host.
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
    tensor to two parameters, or an expanded one), or is seen through `conj()`, `d_t` gets storage
    of its own instead.

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
    if is_traced(chain.from_iterable(rows)):
        return _traced(rows, weights)
    direction, checked = _targets(rows)
    _write(direction, checked, weights)
    return direction


@torch.no_grad()
def write_combination_(rows: Rows, weights: Tensor) -> None:
    """As `combine_`, for first tensors that can all be overwritten; otherwise nothing is.

    Raises:
        ValueError: also if one of them shares memory with another gradient, or with itself.
    """
    direction, checked = _targets(rows)
    for t, (own, given) in enumerate(zip(direction, first_of(rows), strict=True)):
        if own is not given:
            raise ValueError(
                "`targets` of `moopt::combine_` must share their memory with no other gradient and"
                f" not with themselves; got one that does at position {t}. Pass a clone of it."
            )
    _write(direction, checked, weights)


def _write(
    direction: list[Tensor | None], checked: list[Position], weights: Tensor | Sequence[float]
) -> None:
    """Overwrite the first tensors; `direction` holds them."""
    on_host = all(g is None or g.device.type == "cpu" for g in direction)
    if not isinstance(weights, Tensor):
        weights = list(map(float, weights))
    elif weights.device.type == "cpu":
        weights = weights.tolist()
    else:
        checked = _fused(checked, weights)
    long = len(weights) * sum(map(numel, checked)) > LARGEST_GATHERED
    if isinstance(weights, list) and on_host and long and native_form().name == "native":
        checked = combine_native_(checked, weights)
    _Combination(checked, weights, on_host=on_host).run()


def _traced(rows: Rows, weights: Tensor | Sequence[float]) -> list[Tensor | None]:
    """The operator's call. Where memory lies is not known: only what is one object is seen.

    What shares memory in another way makes the operator raise when it runs.
    """
    check_lengths(rows, caller="combine_")
    if not isinstance(weights, Tensor):
        weights = torch.tensor(list(map(float, weights)), dtype=torch.float64)
    count: dict[Tensor, int] = {}
    for g in chain.from_iterable(rows):
        if g is not None:
            count[g] = count.get(g, 0) + 1
    direction: list[Tensor | None] = []
    targets: list[Tensor] = []
    rest: list[list[Tensor | None]] = [[] for _ in rows]
    first: list[int] = []
    for column in zip(*rows, strict=True):
        present = [i for i, g in enumerate(column) if g is not None]
        target = column[present[0]] if present else None
        if target is not None:
            shared = count[target] > 1 or not _extent(target)[0]
            if target.is_complex():
                target = target.resolve_conj()  # Dynamo cannot ask for `is_conj`
            if shared:
                target = target.clone()
            targets.append(target)
            first.append(present[0])
            for i, row in enumerate(rest):
                row.append(None if i == present[0] else column[i])
        direction.append(target)
    torch.ops.moopt.combine_(targets, [g for row in rest for g in row], first, weights)
    return direction


def least_dtype(weights: Sequence[float]) -> torch.dtype:
    """In what rows are summed at least: float64 where a weight leaves the range of float32."""
    wide = any(
        w != 0 and not _SMALLEST_FLOAT32_WEIGHT <= abs(w) <= _LARGEST_FLOAT32_WEIGHT
        for w in weights
    )
    return torch.float64 if wide else torch.float32


def _fused(checked: list[Position], weights: Tensor) -> list[Position]:
    """Combine what the fused form combines on the weights' device; return the rest."""
    dtypes = {g.dtype for position in checked for g in position if g is not None}
    form = fused_form("combine", weights.device, width=len(weights), dtypes=dtypes)
    if form.name != "triton":
        return checked
    from moopt.kernels.combine.triton import combine_triton_

    return combine_triton_(checked, weights.double())


def _targets(rows: Rows) -> tuple[list[Tensor | None], list[Position]]:
    """Return what `combine_` returns, before it is written, and the checked rows over it."""
    checked = positions(rows, caller="combine_")
    direction = first_of(rows)
    conjugate = {t for t, g in enumerate(direction) if g is not None and g.is_conj()}
    for t in _entangled(checked) | conjugate:
        first = direction[t]
        assert first is not None
        # Conjugation and negation bits would come along with the data of a plain clone.
        own = direction[t] = first.resolve_conj().resolve_neg().clone()
        index = next(i for i, g in enumerate(checked[t]) if g is not None)
        checked[t][index] = torch.view_as_real(own) if own.is_complex() else own
    return direction, checked


def _entangled(checked: list[Position]) -> set[int]:
    """Return the positions whose first tensor cannot be overwritten without harm.

    It overlaps itself (expanded), or shares memory with another gradient of any row.
    """
    spans: list[tuple[int, int, int]] = []
    harmed: set[int] = set()
    for t, position in enumerate(checked):
        for k, g in enumerate(g for g in position if g is not None):
            disjoint, length = (True, g.numel()) if g.is_contiguous() else _extent(g)
            if k == 0 and not disjoint:
                harmed.add(t)
            if length:
                stop = g.data_ptr() + length * g.element_size()
                spans.append((g.data_ptr(), stop, t if k == 0 else -1))
    reach, owner = -1, -1
    for start, stop, t in sorted(spans):
        if start < reach:
            harmed |= {owner, t} - {-1}
        if stop > reach:
            reach, owner = stop, t
    return harmed


def _extent(tensor: Tensor) -> tuple[bool, int]:
    """Return (whether no two elements share memory, elements from the first to the last)."""
    reach, disjoint = 1, True
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            disjoint = disjoint and stride >= reach
            reach += stride * (size - 1)
    return disjoint, reach


class _Combination:
    """One pass over the rows: pieces are put together up to one chunk, then combined in one go.

    Args:
        checked: what `positions` returned.
        weights: float64 `[m]`, or numbers where the host knows them.
        on_host: whether the rows are in host memory.
    """

    def __init__(
        self, checked: list[Position], weights: Tensor | list[float], *, on_host: bool
    ) -> None:
        self.checked, self.weights = checked, weights
        self.chunk = _HOST_CHUNK if on_host else _DEVICE_CHUNK
        self.longest = _LONG if on_host else _DEVICE_CHUNK

    def run(self) -> None:
        """Overwrite the first tensor of every position with the weighted sum."""
        known = self.weights if isinstance(self.weights, list) else []
        least = least_dtype(known)
        kinds: dict[tuple[torch.dtype, bool], list[Position]] = {}
        for position in self.checked:
            present = [i for i, g in enumerate(position) if g is not None]
            if not present or (known and len(present) == 1 and known[present[0]] == 1.0):
                continue
            dtypes = {g.dtype for g in position if g is not None}
            accumulated = functools.reduce(torch.promote_types, dtypes, least)
            kinds.setdefault((accumulated, dtypes == {accumulated}), []).append(position)
        for (dtype, in_place), alike in kinds.items():
            if in_place:
                self._combine_in_place(alike)
            else:
                self._combine_widened(alike, dtype)

    def _combine_in_place(self, alike: list[Position]) -> None:
        for group in groups(alike, self.longest):
            targets = list(map(first_in, group))
            for i in range(len(self.weights)):
                self._add_(i, targets, [piece[i] for piece in group])

    def _combine_widened(self, alike: list[Position], dtype: torch.dtype) -> None:
        buffer = torch.empty(2, self.chunk, dtype=dtype, device=first_in(alike[0]).device)
        for group in groups(alike, self.chunk):
            total, term = buffer[:, : sum(map(numel, group))]
            into = total
            for i in range(len(self.weights)):
                if any(piece[i] is not None for piece in group):
                    self._add_(i, [total], [into.copy_(concatenated(group, i))])
                    into = term
            targets = list(map(first_in, group))
            parts = torch._C._nn.unflatten_dense_tensors(total, targets)
            torch._foreach_copy_(targets, list(parts))

    def _add_(self, i: int, targets: list[Tensor], terms: Position) -> None:
        """Add `weights[i]` times the terms to the targets; a target's own term scales it."""
        weight = self.weights[i]
        factor = weight.to(targets[0].dtype) if isinstance(weight, Tensor) else weight
        own: list[Tensor] = []
        summed: list[Tensor] = []
        added: list[Tensor] = []
        for target, gradient in zip(targets, terms, strict=True):
            if gradient is target:
                own.append(target)
            elif gradient is not None:
                summed.append(target)
                added.append(gradient)
        if own:
            torch._foreach_mul_(own, factor)
        if summed and isinstance(factor, float):
            torch._foreach_add_(summed, added, alpha=factor)
        elif summed:
            torch._foreach_add_(summed, torch._foreach_mul(added, factor))
