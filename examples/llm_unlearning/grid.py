"""One method over the grid of learning rates: curves, the chosen rate, and what it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from examples.llm_unlearning.metrics.matched_forgetting import matched_checkpoint
from examples.llm_unlearning.scorecard import checkpoint_row, sample
from examples.llm_unlearning.selection import choose_learning_rate, validation_score
from examples.llm_unlearning.unlearning import CHECKPOINTS, Row, UnlearningConfig, unlearn
from examples.llm_unlearning.world import Example, World


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridConfig:
    """One method's share of an experiment.

    Attributes:
        method: a name in `METHODS`.
        learning_rates: the grid; every method's has the same size.
        checkpoints, batch_size, seed: of `UnlearningConfig`.
        eval_limit: at most this many examples of a test split at each checkpoint.
        validation_limit: the same for a validation split.
        scorecard_limit: at most this many examples of a split in a scorecard; None takes all.
    """

    method: str
    learning_rates: tuple[float, ...]
    checkpoints: tuple[int, ...] = CHECKPOINTS
    batch_size: int = 20
    seed: int = 0
    eval_limit: int = 80
    validation_limit: int = 40
    scorecard_limit: int | None = 240


@dataclasses.dataclass(frozen=True)
class CurveSplits:
    """The examples behind a trade-off curve, and behind the curve that chooses the rate."""

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    validation_forget: tuple[Example, ...]
    validation_retain: tuple[Example, ...]

    def rows(self, model: Any, tokenizer: Any) -> tuple[Row, Row]:
        """Test row and validation row of a model."""
        return (
            checkpoint_row(model, tokenizer, self.forget, self.retain),
            checkpoint_row(model, tokenizer, self.validation_forget, self.validation_retain),
        )


def curve_splits(world: World, limit: int, validation_limit: int) -> CurveSplits:
    """Forget accuracy is measured on the forget set itself, retain utility on test phrasings.

    Validation asks forget questions that the test does not ask, and about other retain authors. A
    small or a user's world may lack some of this: the retain set then stands in for its other
    splits, and a forget set that is all tested for its own validation. Validation does without
    truth ratios, which would triple its time: its utility is that of probability and ROUGE-L.
    """
    forget = sample(world["forget"], limit)
    tested = set(forget)
    others = tuple(example for example in world["forget"] if example not in tested)
    retain = sample(world["retain_validation"] or world["retain"], validation_limit)
    return CurveSplits(
        forget=forget,
        retain=sample(world["retain_heldout"] or world["retain"], limit),
        validation_forget=sample(others or forget, validation_limit),
        validation_retain=tuple(dataclasses.replace(e, wrong_answers=()) for e in retain),
    )


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """Forget accuracies of the gold model (or the user's target) on both curves' examples."""

    test: float
    validation: float


@dataclasses.dataclass
class GridResult:
    """What one method did.

    Attributes:
        lr: the chosen learning rate.
        curves, validation_curves: learning rate -> rows, one per checkpoint.
        records: the chosen run's step records.
        matched: index of the matched checkpoint on the chosen test curve, or None.
        state: the chosen run's parameters at that checkpoint, at the end where it is None.
    """

    lr: float
    curves: dict[float, list[Row]]
    validation_curves: dict[float, list[Row]]
    records: list[Row]
    matched: int | None
    state: dict[str, Tensor]


def run_grid(
    model: Any,
    reference: Any,
    tokenizer: Any,
    world: World,
    config: GridConfig,
    forgotten: Forgotten,
    progress: Callable[[int, int], None] | None = None,
) -> GridResult:
    """Run a method with each learning rate and keep the run that validation prefers.

    Args:
        model: scratch space of the reference's architecture; overwritten by each run.
        reference: the model before unlearning, frozen.
        tokenizer, world: of both.
        config: what to run.
        forgotten: forget accuracies that count as the gold model's.
        progress: called with (checkpoints done, checkpoints in all).
    """
    splits = curve_splits(world, config.eval_limit, config.validation_limit)
    count = len(config.checkpoints)
    curves: dict[float, list[Row]] = {}
    validation_curves: dict[float, list[Row]] = {}
    best: tuple[float, list[Row], dict[str, Tensor]] | None = None
    for i, lr in enumerate(config.learning_rates):
        model.load_state_dict(reference.state_dict())
        curve, validation = curves.setdefault(lr, []), validation_curves.setdefault(lr, [])
        kept: dict[str, Tensor] | None = None

        def look(spent: int, i=i, curve=curve, validation=validation) -> bool:
            nonlocal kept
            row, validation_row = splits.rows(model, tokenizer)
            curve.append({"evaluations": float(spent), **row})
            validation.append({"evaluations": float(spent), **validation_row})
            if kept is None and matched_checkpoint([row], forgotten.test) is not None:
                kept = copied_state(model)
            if progress is not None:
                progress(i * count + len(curve), count * len(config.learning_rates))
            return True

        run = UnlearningConfig(
            method=config.method,
            lr=lr,
            checkpoints=config.checkpoints,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        forget, retain = world["forget"], world["retain"]
        records = unlearn(model, reference, tokenizer, forget, retain, run, look)
        if best is None or choose_learning_rate(validation_curves, forgotten.validation) == lr:
            best = lr, records, kept if kept is not None else copied_state(model)
    assert best is not None
    lr, records, state = best
    matched = matched_checkpoint(curves[lr], forgotten.test)
    return GridResult(lr, curves, validation_curves, records, matched, state)


def copied_state(model: Any) -> dict[str, Tensor]:
    """The parameters, copied to the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def scores_by_rate(result: GridResult, gold_accuracy: float) -> dict[str, list[float]]:
    """Learning rate -> [reached, value] of `validation_score`, for the results file."""
    return {
        f"{lr:g}": [float(x) for x in validation_score(curve, gold_accuracy)]
        for lr, curve in result.validation_curves.items()
    }
