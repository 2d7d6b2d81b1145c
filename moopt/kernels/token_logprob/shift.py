"""The causal shift: which position predicts which label, as one contiguous list of rows."""

import torch
from torch import Tensor

from moopt.kernels.token_logprob.linear import LinearLogits


def shifted_targets(
    logits: Tensor | LinearLogits, labels: Tensor, ignore_index: int, *, caller: str
) -> tuple[Tensor, Tensor]:
    """Check `logits` and `labels`, and return the label that each position predicts.

    Shifting the *labels* keeps `logits.flatten(0, 1)` a view: shifting the logits would copy them.

    Args:
        logits: floating `[B, T, V]`; only its shape and dtype are read.
        labels: int64 `[B, T]`.
        ignore_index: the label that marks a position as not supervised.
        caller: the public function named in the error messages.

    Returns:
        targets int64 `[B, T]`, `targets[:, t] = labels[:, t + 1]`, 0 where nothing is supervised;
        mask bool `[B, T]`, True where the position is supervised, never in the last column.
        Nothing here reads a value, so no device is synchronised.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: not a tensor (a model's whole output, for instance), logits that are not
            floating point, labels that are not int64.
    """
    _check_logits("logits", logits, caller)
    _check_tensor("labels", labels, caller)
    if logits.ndim != 3 or logits.shape[-1] == 0:
        raise ValueError(
            f"`logits` of `{caller}` must have shape [B, T, V] with V >= 1; got"
            f" {list(logits.shape)}. Pass the model's output for a whole batch."
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
    next_labels = torch.cat([labels[:, 1:], unsupervised], dim=1)
    mask = next_labels != ignore_index
    return next_labels.where(mask, 0), mask


def same_shape(
    logits: Tensor | LinearLogits, other: Tensor | LinearLogits, name: str, *, caller: str
) -> None:
    """Raise unless `other` is a floating tensor of the shape of `logits`."""
    _check_logits("logits", logits, caller)
    _check_logits(name, other, caller)
    if other.shape != logits.shape:
        raise ValueError(
            f"`{name}` of `{caller}` must have the shape of `logits`, {list(logits.shape)}; got"
            f" {list(other.shape)}. Run the reference model on the same `input_ids`, with the same"
            " vocabulary."
        )


def _check_tensor(name: str, value: Tensor, caller: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"`{name}` of `{caller}` must be a tensor; got {type(value).__name__}. Pass for"
            " instance model(input_ids).logits and batch['labels']."
        )


def _check_logits(name: str, value: Tensor | LinearLogits, caller: str) -> None:
    if isinstance(value, LinearLogits):
        return  # it has checked itself
    _check_tensor(name, value, caller)
    if not value.is_floating_point():
        raise TypeError(
            f"`{name}` of `{caller}` must be floating point; got {value.dtype}. Pass the model's"
            " raw output."
        )
