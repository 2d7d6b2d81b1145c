"""structure: gradients as a tensor, a list or a named dictionary, seen as rows of tensors."""

from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian
from moopt.kernels.pieces import positions

Gradient = Tensor | Sequence[Tensor | None] | Mapping[str, Tensor | None]
"""A tensor; a sequence of tensors, one per parameter; or a mapping from name to tensor. None is
a zero gradient, as in `.grad`."""

G = TypeVar("G", bound=Gradient)
Row = list[Tensor | None]


def row_of(gradient: Gradient, caller: str) -> Row:
    """The tensors of a gradient, in order.

    Raises:
        TypeError: if it is not of one of the three kinds, or an entry is neither a tensor nor None.
    """
    if isinstance(gradient, Tensor):
        return [gradient]
    if isinstance(gradient, str | bytes) or not isinstance(gradient, Mapping | Sequence):
        raise TypeError(
            f"a gradient of `{caller}` must be a tensor, a sequence of tensors or a mapping from"
            f" name to tensor; got {type(gradient).__name__}. Pass [p.grad for p in parameters]."
        )
    row = list(gradient.values() if isinstance(gradient, Mapping) else gradient)
    for entry in row:
        if entry is not None and not isinstance(entry, Tensor):
            raise TypeError(
                f"an entry of a gradient of `{caller}` must be a tensor or None; got"
                f" {type(entry).__name__}. Pass several gradients as {caller}(gradient, *others)."
            )
    return row


def aligned_rows(gradient: Gradient, others: Sequence[Gradient], caller: str) -> list[Row]:
    """The rows of a gradient and of others of the same structure.

    Raises:
        TypeError: if the kinds differ, or the dtypes of one parameter; or a tensor is sparse or
            not floating point.
        ValueError: if lengths, names, shapes or devices differ.
    """
    rows = [row_of(gradient, caller)]
    for other in others:
        row = row_of(other, caller)
        kinds = _kind(gradient), _kind(other)
        if kinds[0] != kinds[1]:
            raise TypeError(
                f"the gradients of `{caller}` must be of one kind; got a {kinds[0]} and a"
                f" {kinds[1]}. Pass them all as in the first."
            )
        if isinstance(gradient, Mapping) and isinstance(other, Mapping):
            if differing := sorted(set(gradient) ^ set(other)):
                raise ValueError(
                    f"the gradients of `{caller}` must have the same names; {differing} are not in"
                    " both. Give a parameter without a gradient the value None."
                )
            row = [other[name] for name in gradient]
        rows.append(row)
    for index, position in enumerate(positions(rows, caller=caller)):
        dtypes = {str(entry.dtype) for entry in position if entry is not None}
        if len(dtypes) > 1:
            raise TypeError(
                f"the gradients of `{caller}` must agree in dtype for every parameter; got"
                f" {' and '.join(sorted(dtypes))} at position {index}. Convert one by `.to(dtype)`."
            )
    return rows


def _kind(gradient: Gradient) -> str:
    kinds = (Tensor, Mapping, Sequence)
    return next(kind.__name__.lower() for kind in kinds if isinstance(gradient, kind))


@torch.no_grad()
def combined_(
    gradient: G, others: Sequence[Gradient], weigh: Callable[[Tensor], Tensor], caller: str
) -> G:
    """Replace a gradient by a combination of itself and others, and return it.

    Two passes over memory: one for the Gramian, one for the combination. The others stay as they
    are, unless they share memory with the gradient.

    Args:
        gradient: row 0, overwritten.
        others: rows 1 to k.
        weigh: from the Gramian, float64 `[k + 1, k + 1]`, to the weights, float64 `[k + 1]`.
        caller: the public function that the error messages name.
    """
    rows = aligned_rows(gradient, others, caller)
    fill_absent(gradient, rows, caller)
    overwrite_(rows, weigh(gramian(rows)), caller)
    return gradient


def overwrite_(rows: list[Row], weights: Tensor, caller: str) -> None:
    """Write the combination of the rows into the tensors of the first.

    Raises:
        ValueError: if elements of one of these share memory (`expand`).
    """
    targets = list(rows[0])
    for index, target in enumerate(targets):
        if target is None:
            continue
        if any(s == 0 and n > 1 for s, n in zip(target.stride(), target.shape, strict=True)):
            raise ValueError(
                f"`{caller}` must write into memory of its own for every element; got an expanded"
                f" tensor of strides {list(target.stride())}. Pass `gradient.clone()`."
            )
        # Lazy conjugation and negation are views that a kernel cannot write through.
        rows[0][index] = target.resolve_conj().resolve_neg()
    for target, result in zip(targets, combine_(rows, weights), strict=True):
        # What shares memory with another gradient is combined in memory of its own.
        if target is not None and result is not None and result is not target:
            target.copy_(result)


def fill_absent(gradient: Gradient, rows: list[Row], caller: str) -> None:
    """Give the gradient a zero tensor where it has None and another has a tensor."""
    keys: Sequence[Any] = list(gradient) if isinstance(gradient, Mapping) else range(len(rows[0]))
    for index, (key, entry) in enumerate(zip(keys, rows[0], strict=True)):
        present = next((row[index] for row in rows if row[index] is not None), None)
        if entry is not None or present is None:
            continue
        if not isinstance(gradient, MutableMapping | MutableSequence):
            raise TypeError(
                f"`{caller}` must write a tensor where the gradient has None, and a"
                f" {type(gradient).__name__} cannot change. Pass a list or a dictionary, or call"
                f" `{caller.removesuffix('_')}`."
            )
        gradient[key] = rows[0][index] = torch.zeros_like(present)


def copied(gradient: G, caller: str) -> G:
    """A copy of a gradient that owns its memory: a tensor, a list or a dictionary."""
    # Conjugation and negation bits would come along with the data of a plain clone.
    row = [
        None if entry is None else entry.detach().resolve_conj().resolve_neg().clone()
        for entry in row_of(gradient, caller)
    ]
    if isinstance(gradient, Mapping):
        return cast(G, dict(zip(gradient, row, strict=True)))
    return cast(G, row[0] if isinstance(gradient, Tensor) else row)
