"""Reductions over supervised tokens, and over sequences that have one, without a host read."""

from typing import Literal

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def reduce_supervised(values: Tensor, mask: Tensor, reduction: Reduction) -> Tensor:
    """Reduce `values` over the entries where `mask` is True.

    Args:
        values: floating, any shape; already 0 where `mask` is False.
        mask: bool, the shape of `values`.
        reduction: "mean" over the True entries, "sum", or "none".

    Returns:
        A scalar, or `values` for "none". The mean over no entry is 0, with a zero gradient: NaN
        would poison a step whose other objectives are sound, and an error would need the count on
        the host, a synchronisation in every step to catch a rare batch.
    """
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    # Divided before the sum: values near the largest float32 then have a finite mean.
    return (values / mask.sum().clamp_min(1)).sum()
