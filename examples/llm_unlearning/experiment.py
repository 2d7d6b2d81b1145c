"""The synthetic experiment: train, unlearn with every method, and collect the results."""

from __future__ import annotations

import copy
import dataclasses
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from examples.llm_unlearning.cache import configuration_key, source_version, whole_file
from examples.llm_unlearning.grid import (
    GridConfig,
    curve_splits,
    run_grid,
    scores_by_rate,
)
from examples.llm_unlearning.jobs import Job, Workers
from examples.llm_unlearning.presets import Experiment
from examples.llm_unlearning.references import References, measure_references
from examples.llm_unlearning.scorecard import evaluate_world, scorecard
from examples.llm_unlearning.training import (
    HERE,
    WorldConfig,
    load_trained,
    train_model,
)

Progress = Callable[[int, int], None]
ROLES = ("original", "gold", "gold_other")
UNLEARNING_SOURCES = (
    "evaluate",
    "experiment",
    "grid",
    "measures",
    "methods",
    "references",
    "scorecard",
    "selection",
    "unlearning",
)
# Hashed at import: the version of the code that runs, whatever is edited meanwhile.
VERSION = source_version(
    [
        *(HERE.parents[1] / "moopt").rglob("*.py"),
        *(HERE / "metrics").glob("*.py"),
        *(HERE / f"{name}.py" for name in UNLEARNING_SOURCES),
    ]
)


def run_experiment(experiment: Experiment, runs: Path, workers: Workers) -> dict[str, Any]:
    """Run everything that is not in the cache; the results in the form of `report.py`.

    Args:
        experiment: what to run.
        runs: the folder of caches.
        workers: one pool for all stages, since a worker takes seconds to start.
    """
    seeds = experiment.seeds
    configs = {(s, r): experiment.training_config(s, r) for s in seeds for r in ROLES}
    training = [
        Job(f"seed {s}, {r}", train_model, (config, runs / "models"))
        for (s, r), config in configs.items()
    ]
    paths = dict(zip(configs, workers.run(training, "training models"), strict=True))
    scoring = [
        Job(
            f"seed {s}",
            reference_job,
            (configs[s, "original"].world, {r: paths[s, r] for r in ROLES}, experiment),
        )
        for s in seeds
    ]
    measured = workers.run(scoring, "scoring the references")
    references = dict(zip(seeds, measured, strict=True))
    pairs = [(s, m) for s in seeds for m in experiment.methods]
    unlearning = [
        Job(
            f"seed {s}, {m}",
            method_job,
            (
                configs[s, "original"].world,
                {role: paths[s, role] for role in ROLES},
                experiment.grid(s, m),
                references[s],
                runs / "unlearning",
            ),
        )
        for s, m in pairs
    ]
    outcomes = dict(zip(pairs, workers.run(unlearning, "unlearning"), strict=True))
    return {
        "config": plain_config(experiment),
        "environment": environment(),
        "seeds": list(seeds),
        "methods": {
            m: {"seeds": {str(s): outcomes[s, m] for s in seeds}} for m in experiment.methods
        },
        "references": {
            role: {"seeds": {str(s): references[s].entries[role] for s in seeds}} for role in ROLES
        },
    }


def reference_job(
    world_config: WorldConfig,
    paths: Mapping[str, Path],
    experiment: Experiment,
    *,
    progress: Progress,
) -> References:
    """Score one seed's original and gold models."""
    world = world_config.build()
    loaded = {role: load_trained(path) for role, path in paths.items()}
    tokenizer = loaded["original"][1]
    models = {role: model.eval() for role, (model, _) in loaded.items()}
    splits = curve_splits(world, experiment.eval_limit, experiment.validation_limit)
    return measure_references(models, tokenizer, world, splits, experiment.scorecard_limit)


def method_job(
    world_config: WorldConfig,
    paths: Mapping[str, Path],
    config: GridConfig,
    references: References,
    cache: Path,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """One method on one seed: its entry in the results, from the cache where it was run before."""
    key = configuration_key([p.name for p in paths.values()], config, VERSION)
    path = cache / f"{key}.json"
    if path.exists():
        return json.loads(path.read_text())
    world = world_config.build()
    model, tokenizer = load_trained(paths["original"])
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    assert references.forgotten is not None
    outcome = run_grid(model, reference, tokenizer, world, config, references.forgotten, progress)
    model.load_state_dict(outcome.state)
    evaluations = evaluate_world(model.eval(), tokenizer, world, limit=config.scorecard_limit)
    curve = outcome.curves[outcome.lr]
    entry = {
        "lr": outcome.lr,
        "curve": curve,
        "records": outcome.records,
        "scorecard": scorecard(
            evaluations,
            gold=references.gold,
            gold_other=references.gold_other,
            original=references.original,
        ).as_dict(),
        "matched": None if outcome.matched is None else curve[outcome.matched],
        "curves": {f"{lr:g}": rows for lr, rows in outcome.curves.items()},
        "validation_scores": scores_by_rate(outcome, references.forgotten.validation),
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(entry))
    return entry


def plain_config(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain values, for the results file."""
    return json.loads(json.dumps(dataclasses.asdict(experiment)))


def environment() -> dict[str, str]:
    """Versions that a reader needs to repeat the run."""
    import transformers

    import moopt

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "moopt": getattr(moopt, "__version__", "unknown"),
        "machine": platform.machine(),
    }
