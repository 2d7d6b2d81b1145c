"""The models that methods are compared with: original, gold, and another gold."""

from __future__ import annotations

import dataclasses
from typing import Any

from examples.llm_unlearning.grid import CurveSplits, Forgotten
from examples.llm_unlearning.scorecard import Reference, evaluate_world, reference, scorecard
from examples.llm_unlearning.unlearning import Row
from examples.llm_unlearning.world import World


@dataclasses.dataclass(frozen=True)
class References:
    """What a method's run needs to know of the reference models.

    Attributes:
        entries: "original", "gold", "gold_other" -> {"scorecard": ..., "row": ...}, for the
            results file; absent models have no entry.
        original, gold, gold_other: for scorecards.
        forgotten: the gold model's forget accuracies; None without a gold model.
    """

    entries: dict[str, dict[str, Any]]
    original: Reference
    gold: Reference | None
    gold_other: Reference | None
    forgotten: Forgotten | None


def measure_references(
    models: dict[str, Any], tokenizer: Any, world: World, splits: CurveSplits, limit: int | None
) -> References:
    """Score the reference models on a world.

    Args:
        models: "original", and "gold" and "gold_other" where they exist.
        tokenizer: of all of them.
        world: the splits.
        splits: the examples behind a trade-off curve.
        limit: examples of a split behind a scorecard; None takes all.
    """
    evaluations = {
        name: evaluate_world(model, tokenizer, world, limit=limit) for name, model in models.items()
    }
    known = {name: reference(evaluation) for name, evaluation in evaluations.items()}
    rows: dict[str, tuple[Row, Row]] = {
        name: splits.rows(model, tokenizer) for name, model in models.items()
    }
    # A model compared with itself is always perfect: gold is compared with the other gold.
    peers = {"original": "gold", "gold": "gold_other", "gold_other": "gold"}
    entries = {
        name: {
            "scorecard": scorecard(
                evaluations[name],
                gold=known.get(peers[name]),
                gold_other=known.get("gold_other"),
                original=known["original"],
            ).as_dict(),
            "row": rows[name][0],
        }
        for name in models
    }
    forgotten = None
    if "gold" in models:
        forgotten = Forgotten(*(row["forget_accuracy"] for row in rows["gold"]))
    return References(
        entries, known["original"], known.get("gold"), known.get("gold_other"), forgotten
    )
