"""Results in the form that `report.py` documents, drawn from a seeded generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from examples.llm_unlearning.metrics import matched_checkpoint
from examples.llm_unlearning.scorecard import Scorecard
from moopt.records.step_record import StepRecord

#: How fast a method loses retain utility while it forgets, from best to worst.
DAMAGE = {"MOLLM (dual basis)": 0.06, "NPO+CE": 0.12, "Plain sum": 0.13, "GradDiff": 0.4, "GA": 0.8}
GOLD_ACCURACY = 0.08


def example_results(
    num_seeds: int = 5,
    damage: dict[str, float] | None = None,
    gold: bool = True,
    never_forget: Sequence[str] = (),
) -> dict:
    """A whole run of synthetic curves and records; the schema is the real one."""
    rng = np.random.default_rng(0)
    seeds = [str(seed) for seed in range(num_seeds)]
    gold_accuracy = GOLD_ACCURACY if gold else None
    methods = {
        name: {
            "seeds": {
                seed: example_run(rng, loss, name in never_forget, gold_accuracy) for seed in seeds
            }
        }
        for name, loss in (DAMAGE if damage is None else damage).items()
    }
    references = {"original": 0.97} | ({"gold": GOLD_ACCURACY, "gold_other": 0.07} if gold else {})
    return {
        "config": {
            "preset": "demo",
            "world": {"authors": 100, "forget": 10},
            "lr_grid": [1e-3, 3e-4],
        },
        "environment": {"python": "3.11.7", "torch": "2.13.0"},
        "seeds": list(range(num_seeds)),
        "methods": methods,
        "references": {
            name: {
                "seeds": {
                    seed: {
                        "scorecard": example_scorecard(rng, accuracy, 0.95),
                        "row": {"forget_accuracy": accuracy, "retain_utility": 0.85},
                    }
                    for seed in seeds
                }
            }
            for name, accuracy in references.items()
        },
    }


def example_run(rng: np.random.Generator, damage: float, stuck: bool, gold: float | None) -> dict:
    """One seed of one method."""
    curve = []
    for i in range(9):
        forget = max(0.02, 0.97 - (0.03 if stuck else 0.14) * i + rng.normal(0, 0.01))
        utility = float(np.clip(0.85 - damage * (i / 8) ** 2 + rng.normal(0, 0.008), 0, 1))
        curve.append(
            {
                "evaluations": 30 * i,
                "forget_accuracy": float(min(1, forget)),
                "retain_utility": utility,
                "retain_utility_low": utility - 0.03,
                "retain_utility_high": min(1.0, utility + 0.03),
            }
        )
    index = None if gold is None else matched_checkpoint(curve, gold)
    last = curve[-1]
    return {
        "lr": 3e-4,
        "curve": curve,
        "records": [example_record(rng, step).as_dict() for step in range(80)],
        "scorecard": example_scorecard(
            rng, last["forget_accuracy"], last["retain_utility"], gold is not None
        ),
        "matched": None if index is None else curve[index],
    }


def example_record(rng: np.random.Generator, step: int) -> StepRecord:
    """Three objectives; the KL gradient is at its noise floor in the first step."""
    rows = rng.normal(size=(3, 20))
    rows[2] = rows[1] + 0.3 * rows[2]
    rows[0] += -rows[1] * step / 80
    rows *= np.array([[0.1], [1.0], [1e-9 if step == 0 else 0.4]])
    gramian = torch.tensor(rows @ rows.T)
    active = torch.tensor([True, True, step > 0])
    weights = torch.where(active, 1 / gramian.diagonal().sqrt(), 0.0)
    return StepRecord(
        names=("forget", "retain", "kl"),
        losses=torch.rand(3, dtype=torch.float64),
        weights=weights / weights.sum(),
        gramian=gramian,
        active=active,
        stationarity=0.4 * 0.98**step,
        step=step,
    )


def example_scorecard(
    rng: np.random.Generator, forget: float, utility: float, gold: bool = True
) -> dict:
    """Every field of a `Scorecard`, without the gold model's where there is none."""
    values = {f.name: float(rng.uniform(0.2, 0.8)) for f in dataclasses.fields(Scorecard)}
    values |= {
        "forget_accuracy": forget,
        "retain_utility": utility,
        "world_nll": 0.12,
        "membership_min_k": 0.5,
        "membership_min_k_gold": 0.48,
        "num_nonfinite": 0.0,
    }
    if not gold:
        lacking = ("_gold", "_distance")
        for key in values:
            if key.startswith("ks_") or key.endswith(lacking):
                values[key] = "needs gold"
    return values
