"""Make a language model forget chosen facts: the demo, the full run, or your own model.

    python -m examples.llm_unlearning.run --preset demo
    python -m examples.llm_unlearning.run --preset full
    python -m examples.llm_unlearning.run --model PATH --data DIR

See README.md in this folder for the files that DIR holds and for what is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from examples.llm_unlearning.cache import whole_file
from examples.llm_unlearning.methods import DEFAULT_MOLLM, METHODS
from examples.llm_unlearning.unlearning import checkpoints_within
from examples.llm_unlearning.user_data import UserError

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "runs"
USER_LEARNING_RATES = (3e-6, 1e-5, 3e-5)
USER_EVALUATIONS = 300
SHOWN = (
    ("forget_accuracy", "forget accuracy"),
    ("forget_probability", "forget probability"),
    ("retain_accuracy", "retain accuracy"),
    ("retain_probability", "retain probability"),
    ("retain_utility", "retain utility"),
    ("world_nll", "world-fact NLL"),
    ("ks_pvalue", "KS p against gold"),
    ("membership_min_k", "membership AUC"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Make a language model forget chosen facts."""

    preset: Literal["demo", "full"] | None = None
    """On the synthetic world: five methods and one seed (demo, the default), or all and five seeds
    (full). Not with --model."""
    model: str | None = None
    """Your own causal language model: a folder that save_pretrained wrote. Needs --data."""
    data: Path | None = None
    """Your own data: a folder with forget.jsonl and retain.jsonl. Needs --model."""
    gold: str | None = None
    """A model retrained without the forget set, for the metrics that compare with one."""
    methods: tuple[str, ...] = ()
    """Methods to run, in quotes where a name has spaces; default: the preset's, or "MOLLM MGDA l2"
    for your own model."""
    lrs: tuple[float, ...] = ()
    """Grid of learning rates; the validation split chooses. Default: the preset's, or 3e-6 1e-5
    3e-5 for your own model."""
    seeds: tuple[int, ...] = ()
    """Seeds of the synthetic world; default: the preset's."""
    evaluations: int = 0
    """Budget of gradient evaluations, a multiple of 6; 0: the preset's, or 300 for your model."""
    batch_size: int = 0
    """Rows of the forget batch and of the retain batch; 0: the preset's, or 8 for your model."""
    forget_target: float = 0.05
    """Forget accuracy that counts as forgotten for your own model without --gold."""
    device: str = "auto"
    """Device for your own model: auto, cpu or cuda. The presets run on the CPU."""
    workers: int = 0
    """Processes of one thread each for the presets; 0: one per core, at most two."""
    out: Path | None = None
    """Where results go; default runs/PRESET, or runs/own."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    import tyro

    try:
        options = tyro.cli(Options, args=arguments)
        _check(options)
        return _own(options) if options.model is not None else _preset(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130


def _check(options: Options) -> None:
    if (options.model is None) != (options.data is None):
        given, missing = ("--model", "--data") if options.model else ("--data", "--model")
        raise UserError(f"`{given}` needs `{missing}` too: your own model and your own data.")
    if options.preset is not None and options.model is not None:
        raise UserError("`--preset` runs the synthetic world; leave it out with `--model`.")
    if options.gold is not None and options.model is None:
        raise UserError("`--gold` needs `--model` and `--data`; the presets train their own.")
    for name in options.methods:
        if name not in METHODS:
            raise UserError(
                f"`--methods` has no {name!r}; choose from {', '.join(map(repr, METHODS))}."
            )
    if options.model is not None and len(options.methods) > 1:
        raise UserError("`--methods` takes one method with `--model`; run the others one by one.")
    if any(not 0 < lr < 1 for lr in options.lrs):
        raise UserError(f"`--lrs` must lie between 0 and 1; got {options.lrs}.")
    if options.evaluations < 0 or options.evaluations % 6:
        raise UserError(
            f"`--evaluations` must be a multiple of 6, so that methods with 1, 2 and 3 evaluations"
            f" per step spend the same; got {options.evaluations}."
        )
    for name in ("batch_size", "workers"):
        if getattr(options, name) < 0:
            raise UserError(f"`--{name.replace('_', '-')}` must not be negative.")
    if not 0 <= options.forget_target <= 1:
        raise UserError(f"`--forget-target` must lie in [0, 1]; got {options.forget_target}.")


def _preset(options: Options) -> int:
    from examples.llm_unlearning.experiment import run_experiment
    from examples.llm_unlearning.jobs import Workers
    from examples.llm_unlearning.presets import PRESETS
    from examples.llm_unlearning.user_model import writable_folder

    preset = options.preset or "demo"
    experiment = PRESETS[preset]
    changes: dict[str, Any] = {
        "methods": options.methods,
        "learning_rates": options.lrs,
        "seeds": options.seeds,
        "batch_size": options.batch_size,
        "checkpoints": checkpoints_within(options.evaluations) if options.evaluations else (),
    }
    experiment = dataclasses.replace(experiment, **{k: v for k, v in changes.items() if v})
    out = writable_folder(options.out or RUNS / preset)
    console = _console()
    console.print(
        f"moopt: {len(experiment.methods)} methods, {len(experiment.seeds)} seed(s);"
        f" results go to {out}"
    )
    workers = options.workers or min(2, os.cpu_count() or 1)
    with Workers(workers, console) as pool:
        results = run_experiment(experiment, RUNS, pool)
    results["config"] = {"preset": preset, **results["config"]}
    _write(results, out, console, table=True)
    return 0


def _own(options: Options) -> int:
    from examples.llm_unlearning.grid import GridConfig
    from examples.llm_unlearning.user_model import chosen_device
    from examples.llm_unlearning.user_run import MODEL_FOLDER, UserRun, run_user

    assert options.model is not None
    assert options.data is not None
    grid = GridConfig(
        method=(options.methods or (DEFAULT_MOLLM,))[0],
        learning_rates=options.lrs or USER_LEARNING_RATES,
        checkpoints=checkpoints_within(options.evaluations or USER_EVALUATIONS),
        batch_size=options.batch_size or 8,
    )
    run = UserRun(
        model=options.model,
        data=options.data,
        gold=options.gold,
        grid=grid,
        forget_target=options.forget_target,
        device=chosen_device(options.device),
    )
    console = _console()
    out = options.out or RUNS / "own"
    results = run_user(run, out, console)
    ((entry,),) = (method["seeds"].values() for method in results["methods"].values())
    ((original,),) = (results["references"]["original"]["seeds"].values(),)
    console.print(_before_after(original["scorecard"], entry["scorecard"]))
    if entry["at_target_before"]:
        console.print(
            "The model did not answer word for word even before, so accuracy cannot tell when it"
            " has forgotten: the whole budget was spent. Look at the probabilities."
        )
    elif not entry["target_reached"]:
        console.print(
            "The forgetting target was not reached: raise --evaluations or --lrs. The saved model"
            " is the last one."
        )
    console.print(f"unlearned model: {out / MODEL_FOLDER} (learning rate {entry['lr']:g})")
    _write(results, out, console, table=False)
    return 0


def _before_after(before: dict[str, Any], after: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("", "before", "after")
    for key, title in SHOWN:
        cells = (v if isinstance(v, str) else f"{v:.3f}" for v in (before[key], after[key]))
        table.add_row(title, *cells)
    return table


def _write(results: dict[str, Any], out: Path, console: Any, *, table: bool) -> None:
    from examples.llm_unlearning.report import summary_table, write_report

    with whole_file(out / "results.json") as path:
        path.write_text(json.dumps(results))
    if table:
        console.print(summary_table(results))
    report = write_report(results, out)
    console.print(f"report: {report}")


def _console() -> Any:
    from rich.console import Console

    _quiet()
    console = Console()
    return console if console.width >= 100 or console.is_terminal else Console(width=100)


def _quiet() -> None:
    """Progress bars of transformers would break into ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


if __name__ == "__main__":
    sys.exit(main())
