"""The weighted sum of m rows and the update along it, in plain PyTorch, chunk by chunk."""

import functools
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from moopt.kernels.combine.reference import least_dtype
from moopt.kernels.dispatch import LARGEST_GATHERED
from moopt.kernels.fused import fused_form
from moopt.kernels.native import combine_update_native_, native_form
from moopt.kernels.pieces import Position, Rows, concatenated, first_in, groups, numel, positions
from moopt.kernels.table import sent
from moopt.kernels.updates import numbers_of, update_

# Elements that are updated together: what a chunk needs stays in the last-level cache.
_HOST_CHUNK = 1 << 17
_DEVICE_CHUNK = 1 << 22


@torch.no_grad()
def combine_update_(
    parameters: Sequence[Tensor],
    states: Rows,
    rows: Rows,
    weights: Tensor | Sequence[float],
    numbers: Tensor,
) -> None:
    """Step along `d_t = sum_i weights[i] rows[i][t]`, which is never written to memory as a whole.

    The rows are only read. A parameter that no row reaches stays as it is, and so do its states.

    Args:
        parameters: `T` tensors, overwritten.
        states: the `T` tensors of each state that the update has (overwritten): none for SGD, the
            momentum buffers, or Adam's moments and, with amsgrad, the largest second ones.
        rows: `m >= 1` sequences of `T` gradients. None is a zero gradient.
        weights: `[m]` of any sign; numbers, or float64 in host memory or on the rows' device.
        numbers: float64 `[T, S]` in host memory or on the rows' device, by parameter; the columns
            are `moopt.kernels.combine_update.SGD`, or `ADAM` from two states on.

    Raises:
        ValueError: if rows disagree in length, shape or device, or `weights` is not `[m]`, or
            `numbers` not `[T, S]`.
        TypeError: if a tensor is sparse or not floating point.

    Numerics:
        d is summed in float32 or, where a weight leaves its range or a tensor is float64, in
        float64, and the update computed in the same order as in torch's fused optimizers: in
        float64 for float64, else in float32. Parameters and states are rounded once; d never is
        rounded into 16 bits.

    Example:
        >>> import torch
        >>> from moopt.kernels.combine_update import SGD, combine_update_
        >>> parameter, a, b = torch.ones(2), torch.tensor([4.0, 0.0]), torch.tensor([0.0, 8.0])
        >>> numbers = torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        >>> combine_update_([parameter], [], [[a], [b]], [0.5, 0.25], numbers)
        >>> parameter
        tensor([0.8000, 0.8000])

    Source:
        D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", 2015,
        https://arxiv.org/abs/1412.6980; I. Loshchilov and F. Hutter, "Decoupled weight decay
        regularization", 2019, https://arxiv.org/abs/1711.05101; torch's forms of both, and of SGD.
    """
    shape = list(weights.shape) if isinstance(weights, Tensor) else [len(weights)]
    if shape != [len(rows)]:
        raise ValueError(
            f"`weights` of `combine_update_` must have shape [m] = [{len(rows)}], one weight per"
            f" row; got {shape}. Pass the weights of one weighting call."
        )
    names = numbers_of(len(states))
    if list(numbers.shape) != [len(parameters), len(names)]:
        raise ValueError(
            f"`numbers` of `combine_update_` must have shape [T, S] = [{len(parameters)},"
            f" {len(names)}], with the columns {', '.join(names)}; got {list(numbers.shape)}."
        )
    held = 1 + len(states)
    checked = positions([list(parameters), *states, *rows], caller="combine_update_")
    reached = [any(g is not None for g in position[held:]) for position in checked]
    if not all(reached):
        checked = list(compress(checked, reached))
        numbers = numbers[torch.tensor(reached, device=numbers.device)]
    if isinstance(weights, Tensor) and weights.device.type == "cpu":
        weights = weights.tolist()
    if not checked:
        return
    left = _faster(checked, held, weights, numbers)
    if left is not None:
        checked, numbers = [checked[t] for t in left], numbers[left]
    if checked:
        _Update(held, weights).run(checked, numbers.tolist())


def _faster(
    checked: list[Position], held: int, weights: Tensor | Sequence[float], numbers: Tensor
) -> list[int] | None:
    """Update what a faster form updates; return which positions it leaves. None if none runs."""
    device = first_in(checked[0]).device
    if device.type == "cpu":
        long = len(checked[0]) * sum(map(numel, checked)) > LARGEST_GATHERED
        if not long or isinstance(weights, Tensor) or native_form().name != "native":
            return None
        return combine_update_native_(checked, held, weights, numbers)
    dtypes = {g.dtype for position in checked for g in position if g is not None}
    form = fused_form("combine_update", device, width=len(weights), dtypes=dtypes)
    if form.name != "triton":
        return None
    from moopt.kernels.combine_update.triton import combine_update_triton_

    on_device = sent(torch.as_tensor(weights, dtype=torch.float64), device)
    return combine_update_triton_(checked, held, on_device, numbers)


class _Update:
    """One pass over the rows: pieces are put together up to one chunk, then updated in one go.

    Args:
        held: how many tensors of a position stand before the rows: the parameter and its states.
        weights: float64 `[m]` on the rows' device, or numbers.
    """

    def __init__(self, held: int, weights: Tensor | Sequence[float]) -> None:
        self.held, self.weights = held, weights
        known = () if isinstance(weights, Tensor) else weights
        self.least = least_dtype(known)

    def run(self, checked: Sequence[Position], numbers: Sequence[Sequence[float]]) -> None:
        """Update the first tensors of every position."""
        kinds: dict[tuple[Any, ...], list[Position]] = {}
        for position, own in zip(checked, numbers, strict=True):
            dtypes = (g.dtype for g in position[: self.held] if g is not None)
            kinds.setdefault((tuple(own), *dtypes), []).append(position)
        for (own, *_), alike in kinds.items():
            on_host = first_in(alike[0]).device.type == "cpu"
            for group in groups(alike, _HOST_CHUNK if on_host else _DEVICE_CHUNK):
                self._update_group(group, own)

    def _update_group(self, group: list[Position], numbers: Sequence[float]) -> None:
        targets: Any = [[piece[k] for piece in group] for k in range(self.held)]
        dtypes = {g.dtype for piece in group for g in piece if g is not None}
        dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        parameter, *states = (concatenated(group, k).to(dtype) for k in range(self.held))
        update_(parameter, states, self._direction(group, dtype), numbers)
        for flat, own in zip((parameter, *states), targets, strict=True):
            if len(own) > 1 or flat.data_ptr() != own[0].data_ptr():
                parts = torch._C._nn.unflatten_dense_tensors(flat, own)
                torch._foreach_copy_(own, list(parts))

    def _direction(self, group: list[Position], dtype: torch.dtype) -> Tensor:
        """The weighted sum over one chunk, in memory of its own."""
        wide = torch.promote_types(dtype, self.least)
        total: Tensor | None = None
        for i, weight in enumerate(self.weights):
            if all(piece[self.held + i] is None for piece in group):
                continue
            term = concatenated(group, self.held + i).to(wide)
            factor = weight.to(wide) if isinstance(weight, Tensor) else weight
            if total is None:
                total = term * factor
            elif isinstance(factor, Tensor):
                total.add_(term * factor)
            else:
                total.add_(term, alpha=factor)
        assert total is not None, numel(group[0])
        return total.to(dtype)
