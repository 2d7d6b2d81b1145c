"""Retain utility at matched forgetting: compare methods where they forgot equally much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: How far above the gold model's forget accuracy still counts as forgotten.
MARGIN = 0.05


def matched_checkpoint(
    curve: Sequence[Mapping[str, float]], gold_accuracy: float | None, margin: float = MARGIN
) -> int | None:
    """Index of the first checkpoint whose forget accuracy is at most the gold model's + margin.

    Args:
        curve: checkpoints in training order, each with `forget_accuracy` and `retain_utility`.
        gold_accuracy: the gold model's accuracy on the forget set, in [0, 1].
        margin: in [0, 1], default 0.05.

    Returns:
        The index, or None where no checkpoint forgot as much.

    Raises:
        ValueError: `gold_accuracy` is None, the curve is empty or a row lacks a field.

    Numerics: a tolerance of 1e-9 keeps `gold + margin` itself inside after rounding.

    Example:
        >>> curve = [{"forget_accuracy": a, "retain_utility": u} for a, u in [(1, 1), (0.1, 0.9)]]
        >>> matched_checkpoint(curve, 0.08)
        1
    """
    if gold_accuracy is None:
        raise ValueError(
            "matched forgetting is defined by the gold model's forget accuracy; got none. Train"
            " the gold model, or report whole trade-off curves."
        )
    if not curve:
        raise ValueError("`curve` of `matched_forgetting` must hold a checkpoint; got none.")
    for index, row in enumerate(curve):
        for name in ("forget_accuracy", "retain_utility"):
            if not 0 <= row.get(name, float("nan")) <= 1:
                raise ValueError(
                    f"checkpoint {index} of `curve` must have `{name}` in [0, 1]; got"
                    f" {row.get(name)}. Write rows with `scorecard.checkpoint_row`."
                )
    for index, row in enumerate(curve):
        if row["forget_accuracy"] <= gold_accuracy + margin + 1e-9:
            return index
    return None


def matched_forgetting(
    curve: Sequence[Mapping[str, float]], gold_accuracy: float | None, margin: float = MARGIN
) -> float | None:
    """Retain utility at the first checkpoint that forgot as much as the gold model, plus margin.

    Args:
        curve: as in `matched_checkpoint`.
        gold_accuracy: the gold model's accuracy on the forget set.
        margin: default 0.05.

    Returns:
        The utility in [0, 1], or None where the method never got there. None is not 0: report it
        as "not reached", beside how many seeds did reach it.

    Raises:
        ValueError: as `matched_checkpoint`.

    Example:
        >>> curve = [{"forget_accuracy": a, "retain_utility": u} for a, u in [(1, 1), (0.1, 0.9)]]
        >>> matched_forgetting(curve, 0.08), matched_forgetting(curve, 0.0)
        (0.9, None)
    """
    index = matched_checkpoint(curve, gold_accuracy, margin)
    return None if index is None else float(curve[index]["retain_utility"])
