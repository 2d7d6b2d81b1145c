"""The synthetic experiment on a tiny world: every stage for real, then again from the cache."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from examples.llm_unlearning.experiment import run_experiment
from examples.llm_unlearning.grid import curve_splits
from examples.llm_unlearning.jobs import Workers
from examples.llm_unlearning.methods import DEFAULT_MOLLM, DEMO_METHODS, METHODS
from examples.llm_unlearning.presets import PRESETS, Experiment
from examples.llm_unlearning.report import summary_table, write_report
from tests.examples.tiny import TINY, TINY_WORLD

EXPERIMENT = Experiment(
    seeds=(0,),
    methods=("GradDiff", DEFAULT_MOLLM),
    learning_rates=(1e-3, 1e-2),
    checkpoints=(0, 6, 12),
    batch_size=4,
    eval_limit=6,
    validation_limit=4,
    scorecard_limit=8,
    training=TINY,
)


def test_the_presets_are_what_they_say() -> None:
    assert PRESETS["demo"].methods == DEMO_METHODS
    assert PRESETS["full"].methods == tuple(METHODS)
    assert len(PRESETS["full"].seeds) >= 5
    demo, full = (dataclasses.asdict(PRESETS[name]) for name in ("demo", "full"))
    for name in ("learning_rates", "checkpoints", "batch_size", "training"):
        assert demo[name] == full[name]


def test_gold_is_trained_on_the_same_world_and_never_on_its_forget_set() -> None:
    original, gold, other = (
        EXPERIMENT.training_config(3, r) for r in ("original", "gold", "gold_other")
    )
    assert original.world == gold.world == other.world
    assert original.world.seed == 3
    assert (original.role, gold.role, other.role) == ("original", "gold", "gold")
    assert gold.seed != other.seed
    assert EXPERIMENT.training_config(4, "gold").world != gold.world


def test_validation_and_test_ask_different_questions() -> None:
    splits = curve_splits(TINY_WORLD.build(), 6, 4)
    assert not set(splits.forget) & set(splits.validation_forget)
    subjects = [{e.subject for e in s} for s in (splits.retain, splits.validation_retain)]
    assert not subjects[0] & subjects[1]


@pytest.mark.slow
def test_a_run_and_its_repetition(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, width=100)
    with Workers(2, console) as workers:
        results = run_experiment(EXPERIMENT, tmp_path / "runs", workers)
        files = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")}
        again = run_experiment(EXPERIMENT, tmp_path / "runs", workers)
    assert json.loads(json.dumps(results)) == json.loads(json.dumps(again))
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*")}
    for method in EXPERIMENT.methods:
        entry = results["methods"][method]["seeds"]["0"]
        assert [row["evaluations"] for row in entry["curve"]] == [0, 6, 12]
        assert entry["lr"] in EXPERIMENT.learning_rates
        assert set(entry["curves"]) == {"0.001", "0.01"}
        assert isinstance(entry["scorecard"]["ks_ceiling_pvalue"], float)
    assert len(results["methods"][DEFAULT_MOLLM]["seeds"]["0"]["records"]) == 4
    console.print(summary_table(results))
    assert max(map(len, text.getvalue().splitlines())) <= 100
    assert write_report(results, tmp_path / "report").exists()
