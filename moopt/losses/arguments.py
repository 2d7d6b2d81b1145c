"""Checks of the losses' arguments, by shape and type alone: none reads a tensor's values."""

import math

from torch import Tensor

from moopt.losses.reduction import Reduction


def check_reduction(reduction: Reduction, *, caller: str) -> None:
    """Raise ValueError unless `reduction` is "mean", "sum" or "none"."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"`reduction` of `{caller}` must be 'mean', 'sum' or 'none'; got {reduction!r}."
        )


def check_beta(beta: float, *, caller: str) -> None:
    """Raise ValueError unless `beta` is positive and finite."""
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(
            f"`beta` of `{caller}` must be positive and finite; got {beta}. Its limit at 0 is"
            " gradient ascent: use `GradientAscentLoss` for that."
        )


def one_reference(
    reference_logits: Tensor | None, reference_log_probs: Tensor | None, *, caller: str
) -> None:
    """Raise ValueError unless exactly one of the two reference arguments is given."""
    if (reference_logits is None) == (reference_log_probs is None):
        given = "none" if reference_logits is None else "both"
        raise ValueError(
            f"`{caller}` needs exactly one of `reference_logits` and `reference_log_probs`; got"
            f" {given}. Pass the reference model's logits for this batch, or its log-probabilities"
            " computed beforehand."
        )
