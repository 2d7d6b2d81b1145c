"""Unlearning a user's own data from a user's own model; the unlearned model is saved."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.llm_unlearning.cache import whole_file
from examples.llm_unlearning.experiment import environment
from examples.llm_unlearning.grid import (
    Forgotten,
    GridConfig,
    GridResult,
    curve_splits,
    run_grid,
)
from examples.llm_unlearning.metrics.matched_forgetting import MARGIN
from examples.llm_unlearning.references import References, measure_references
from examples.llm_unlearning.scorecard import evaluate_world, scorecard
from examples.llm_unlearning.user_data import read_world
from examples.llm_unlearning.user_model import load_causal_model, same_vocabulary, writable_folder
from examples.llm_unlearning.world import World

NEEDS = {
    "needs gold": "needs a gold model (--gold PATH)",
    "needs gold_other": "needs a second gold model",
    "needs holdout set": "needs holdout.jsonl",
    "needs world set": "needs world_facts.jsonl",
    "needs forget_heldout set": "needs forget_heldout.jsonl",
    "needs retain_heldout set": "needs retain_heldout.jsonl",
    "needs wrong answers": "needs the field wrong_answers",
}
MODEL_FOLDER = "model"
SUMMARY = "summary.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserRun:
    """What a user asked for.

    Attributes:
        model, gold: folders or names that `AutoModelForCausalLM.from_pretrained` takes.
        data: folder of JSONL files.
        grid: method, learning rates and budget.
        forget_target: without a gold model, the forget accuracy that counts as forgotten.
        device: where everything runs.
    """

    model: str
    data: Path
    gold: str | None
    grid: GridConfig
    forget_target: float
    device: torch.device


def run_user(run: UserRun, out: Path, console: Any) -> dict[str, Any]:
    """Unlearn, save the model and its summary under `out`; the results in `report.py`'s form.

    Raises:
        UserError: the data or a model cannot be used; nothing has been trained then.
    """
    from rich.progress import Progress

    world = read_world(run.data)
    model, tokenizer = load_causal_model(run.model, "--model", run.device)
    references = _references(run, model, tokenizer, world)
    writable_folder(out)
    forgotten = _forgotten(run, references)
    reference = copy.deepcopy(model).requires_grad_(False)
    with Progress(console=console, transient=True) as display:
        task = display.add_task(run.grid.method)
        outcome = run_grid(
            model.requires_grad_(True),
            reference,
            tokenizer,
            world,
            run.grid,
            forgotten,
            lambda done, total: display.update(task, completed=done, total=total),
        )
    model.load_state_dict(outcome.state)
    card = scorecard(
        evaluate_world(model.eval(), tokenizer, world, limit=run.grid.scorecard_limit),
        gold=references.gold,
        original=references.original,
    ).as_dict()
    gold = references.forgotten
    target = run.forget_target if gold is None else gold.test + MARGIN
    entry = _entry(outcome, card, target, with_gold=gold is not None)
    model.save_pretrained(out / MODEL_FOLDER)
    tokenizer.save_pretrained(out / MODEL_FOLDER)
    results = {
        "config": json.loads(json.dumps(dataclasses.asdict(run), default=str)),
        "environment": environment(),
        "seeds": [run.grid.seed],
        "methods": {run.grid.method: {"seeds": {str(run.grid.seed): entry}}},
        "references": {
            name: {"seeds": {str(run.grid.seed): reworded(entry)}}
            for name, entry in references.entries.items()
        },
    }
    with whole_file(out / MODEL_FOLDER / SUMMARY) as path:
        path.write_text(json.dumps(summary(results, entry), indent=2))
    return results


def _references(run: UserRun, model: Any, tokenizer: Any, world: World) -> References:
    models = {"original": model}
    if run.gold is not None:
        gold, gold_tokenizer = load_causal_model(run.gold, "--gold", run.device)
        same_vocabulary(tokenizer, gold_tokenizer, "--gold")
        models["gold"] = gold
    splits = curve_splits(world, run.grid.eval_limit, run.grid.validation_limit)
    return measure_references(models, tokenizer, world, splits, run.grid.scorecard_limit)


def _forgotten(run: UserRun, references: References) -> Forgotten:
    """The accuracies that count as forgotten, gold's or the user's target.

    A model that never answered word for word is at the target before the first step. Accuracy
    cannot tell then when to stop, so the target is put out of reach and the budget is spent.
    """
    # `run_grid` asks for gold's accuracy and allows a margin above it.
    forgotten = references.forgotten or Forgotten(
        run.forget_target - MARGIN, run.forget_target - MARGIN
    )
    start = references.entries["original"]["row"]["forget_accuracy"]
    return forgotten if start > forgotten.test + MARGIN else Forgotten(-1.0, -1.0)


def _entry(
    outcome: GridResult, card: Mapping[str, Any], target: float, with_gold: bool
) -> dict[str, Any]:
    """One method's entry; matched forgetting is defined only beside a gold model."""
    curve = outcome.curves[outcome.lr]
    reached = outcome.matched is not None
    return reworded(
        {
            "lr": outcome.lr,
            "curve": curve,
            "curves": {f"{lr:g}": rows for lr, rows in outcome.curves.items()},
            "records": outcome.records,
            "scorecard": dict(card),
            "matched": curve[outcome.matched] if reached and with_gold else None,
            "kept": curve[outcome.matched] if reached else curve[-1],
            "target_reached": reached,
            "at_target_before": curve[0]["forget_accuracy"] <= target,
        }
    )


def reworded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose gaps name the option that fills them."""
    card = {key: NEEDS.get(value, value) for key, value in entry["scorecard"].items()}
    return {**entry, "scorecard": card}


def summary(results: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is saved beside the model: how it was made, and its scorecard before and after."""
    (original,) = results["references"]["original"]["seeds"].values()
    return {
        "config": results["config"],
        "environment": results["environment"],
        "lr": entry["lr"],
        "target_reached": entry["target_reached"],
        "evaluations": entry["kept"]["evaluations"],
        "before": original["scorecard"],
        "after": entry["scorecard"],
    }
