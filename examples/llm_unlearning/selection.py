"""Which learning rate a method gets: chosen on the validation split, never on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from examples.llm_unlearning.metrics.matched_forgetting import MARGIN, matched_checkpoint

Curve = Sequence[Mapping[str, float]]


def validation_score(curve: Curve, gold_accuracy: float) -> tuple[bool, float]:
    """How good a learning rate is, for comparison with others; larger is better.

    A run that reaches matched forgetting on the validation phrasings scores its retain utility
    there and beats every run that does not; those are ranked by how far they forgot.
    """
    index = matched_checkpoint(curve, gold_accuracy, MARGIN)
    if index is None:
        return False, -min(row["forget_accuracy"] for row in curve)
    return True, curve[index]["retain_utility"]


def choose_learning_rate(curves: Mapping[float, Curve], gold_accuracy: float) -> float:
    """The learning rate with the best `validation_score`; the smaller one of equals.

    Args:
        curves: learning rate -> validation curve.
        gold_accuracy: the gold model's forget accuracy on the validation phrasings.
    """
    return max(sorted(curves), key=lambda lr: validation_score(curves[lr], gold_accuracy))
