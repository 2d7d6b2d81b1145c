"""The causal shift: which position predicts which label, as one contiguous list of rows."""

from typing import NamedTuple

import torch
from torch import Tensor


class ShiftedTargets(NamedTuple):
    """The label that every position predicts, with the shapes still `[B, T]`.

    Shifting the *labels* keeps `logits.flatten(0, 1)` a view: shifting the logits would copy them.

    Attributes:
        targets: int64 `[B, T]`; `targets[:, t] = labels[:, t + 1]`, 0 where nothing is supervised.
        mask: bool `[B, T]`; True where the position is supervised, never in the last column.
    """

    targets: Tensor
    mask: Tensor


def shifted_targets(
    logits: Tensor, labels: Tensor, ignore_index: int, *, caller: str
) -> ShiftedTargets:
    """Check `logits` and `labels`, and return the label that each position predicts.

    Args:
        logits: floating `[B, T, V]`; only its shape and dtype are read.
        labels: int64 `[B, T]`.
        ignore_index: the label that marks a position as not supervised.
        caller: the public function named in the error messages.

    Returns:
        `ShiftedTargets`; nothing here reads a value, so no device is synchronised.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: not a tensor (a model's whole output, for instance), logits that are not
            floating point, labels that are not int64.
    """
    for name, value in (("logits", logits), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"`{name}` of `{caller}` must be a tensor; got {type(value).__name__}. Pass for"
                " instance model(input_ids).logits and batch['labels']."
            )
    if logits.ndim != 3 or logits.shape[-1] == 0:
        raise ValueError(
            f"`logits` of `{caller}` must have shape [B, T, V] with V >= 1; got"
            f" {list(logits.shape)}. Pass the model's output for a batch, not one sequence or one"
            " token."
        )
    if not logits.is_floating_point():
        raise TypeError(
            f"`logits` of `{caller}` must be floating point; got {logits.dtype}. Pass the model's"
            " raw output."
        )
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"`labels` of `{caller}` must have shape {list(logits.shape[:2])}, the first two of"
            f" `logits`; got {list(labels.shape)}. Do not shift them: the shift is done here."
        )
    if labels.dtype != torch.int64:
        raise TypeError(
            f"`labels` of `{caller}` must be int64; got {labels.dtype}. Pass `labels.long()`."
        )
    unsupervised = torch.full_like(labels[:, :1], ignore_index)
    following = torch.cat([labels[:, 1:], unsupervised], dim=1)
    mask = following != ignore_index
    return ShiftedTargets(following.where(mask, 0), mask)


def same_shape(logits: Tensor, other: Tensor, name: str, *, caller: str) -> None:
    """Raise unless `other` is a floating tensor of the shape of `logits`."""
    for what, value in (("logits", logits), (name, other)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"`{what}` of `{caller}` must be a tensor; got {type(value).__name__}. Pass for"
                " instance model(input_ids).logits."
            )
    if other.shape != logits.shape:
        raise ValueError(
            f"`{name}` of `{caller}` must have the shape of `logits`, {list(logits.shape)}; got"
            f" {list(other.shape)}. Run the reference model on the same `input_ids`, with the same"
            " vocabulary."
        )
    if not other.is_floating_point():
        raise TypeError(
            f"`{name}` of `{caller}` must be floating point; got {other.dtype}. Pass the reference"
            " model's raw output."
        )
