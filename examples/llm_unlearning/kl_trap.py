"""The KL trap, shown: what happens in the first step from the reference model.

    python -m examples.llm_unlearning.kl_trap

At the original model the KL loss is at its minimum, so its gradient is zero up to rounding. The
min-norm rule then gives it all the weight: the direction is nothing (the step refuses it as
DEGENERATE, and only weight decay moves the model), or rounding noise that AdamW blows up to
full-size steps. `CommonDescent` calls such an objective inactive in that step. The naive rule
(`inactive_tol=0`) runs beside it.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import moopt
from examples.llm_unlearning.data import batches, encode
from examples.llm_unlearning.training import (
    TrainingConfig,
    WorldConfig,
    load_trained,
    train_model,
)
from moopt.losses import reference_kl_loss, token_cross_entropy_loss, unlearning_cross_entropy_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE = Path(__file__).parents[2] / "runs" / "models"
SMALL = TrainingConfig(
    role="original", world=WorldConfig(num_authors=20, num_forget=4, num_holdout=2), steps=400
)
STEPS = 40
LEARNING_RATE = 1e-3
NAIVE = "naive (MGDA, inactive_tol=0)"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run from the reference model.

    Attributes:
        first: the record of the first step.
        same_as_without_kl: the largest difference of a parameter after the first step from the
            step without the KL loss, relative to the largest movement in that step.
        moved: the largest movement of a parameter in the first step.
        forget, retain: probability of the true answer tokens before and after `STEPS` steps.
    """

    first: moopt.StepRecord
    same_as_without_kl: float
    moved: float
    forget: tuple[float, float]
    retain: tuple[float, float]


def rules() -> dict[str, tuple[moopt.weightings.Weighting, float]]:
    """The variants of MOLLM and the naive rule: weighting and `inactive_tol`."""
    variants = ("dual_basis", "unit_dual", "projected")
    table = {f"MOLLM {v}": (moopt.DualSpaceMGDA(variant=v), 1e-5) for v in variants}
    return table | {NAIVE: (moopt.MGDA(), 0.0)}


def losses_of(
    model: PreTrainedModel, reference: PreTrainedModel, forget: dict, retain: dict
) -> dict[str, Tensor]:
    """MOLLM's three objectives on one batch of each set."""
    forget_logits = model(input_ids=forget["input_ids"]).logits
    retain_logits = model(input_ids=retain["input_ids"]).logits
    with torch.no_grad():
        reference_logits = reference(input_ids=retain["input_ids"]).logits
    return {
        "forget": unlearning_cross_entropy_loss(forget_logits, forget["labels"]),
        "kl": reference_kl_loss(retain_logits, retain["labels"], reference_logits=reference_logits),
        "retain": token_cross_entropy_loss(retain_logits, retain["labels"]),
    }


def answer_probability(model: PreTrainedModel, encoded: dict[str, Tensor]) -> float:
    """Geometric mean over supervised tokens of the true token's probability."""
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"]).logits
        return float(torch.exp(-token_cross_entropy_loss(logits, encoded["labels"])))


def run(
    original: PreTrainedModel,
    forget: dict[str, Tensor],
    retain: dict[str, Tensor],
    weighting: moopt.weightings.Weighting,
    inactive_tol: float,
    *,
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    batch_size: int = 16,
) -> Outcome:
    """Unlearn from `original` and report the first step and the end."""
    start = _flat(original)
    without = _one_step(original, forget, retain, weighting, inactive_tol, lr, batch_size)
    model = copy.deepcopy(original)
    optimizer = moopt.CommonDescent(
        torch.optim.AdamW(model.parameters(), lr=lr), weighting, inactive_tol=inactive_tol
    )
    streams = _streams(forget, retain, batch_size)
    before = answer_probability(model, forget), answer_probability(model, retain)
    first, after_first = None, start
    for _ in range(steps):
        optimizer.zero_grad()
        record = optimizer.backward(losses_of(model, original, *map(next, streams)))
        optimizer.step()
        if first is None:
            first, after_first = record, _flat(model)
    moved = float((after_first - start).abs().max())
    difference = float((after_first - without).abs().max())
    after = answer_probability(model, forget), answer_probability(model, retain)
    assert first is not None
    return Outcome(
        first=first,
        same_as_without_kl=difference / max(moved, 1e-30),
        moved=moved,
        forget=(before[0], after[0]),
        retain=(before[1], after[1]),
    )


def _one_step(original, forget, retain, weighting, inactive_tol, lr, batch_size) -> Tensor:  # type: ignore[no-untyped-def]
    """Parameters after the first step without the KL loss."""
    model = copy.deepcopy(original)
    optimizer = moopt.CommonDescent(
        torch.optim.AdamW(model.parameters(), lr=lr), weighting, inactive_tol=inactive_tol
    )
    losses = losses_of(model, original, *map(next, _streams(forget, retain, batch_size)))
    del losses["kl"]
    optimizer.backward(losses)
    optimizer.step()
    return _flat(model)


def _streams(forget: dict[str, Tensor], retain: dict[str, Tensor], batch_size: int) -> tuple:
    return tuple(
        batches(part, batch_size, torch.Generator().manual_seed(0)) for part in (forget, retain)
    )


def _flat(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def main() -> None:
    """Train (or find) a small original model, and print one line per rule."""
    torch.set_num_threads(1)
    original, tokenizer = load_trained(train_model(SMALL, CACHE))
    original.eval()
    world = SMALL.world.build()
    forget, retain = (
        encode(tokenizer, [(e.question, e.answer) for e in world[split]])
        for split in ("forget", "retain")
    )
    print("rule                          w_kl  inactive  first step against the one without KL")
    for name, (weighting, inactive_tol) in rules().items():
        outcome = run(original, forget, retain, weighting, inactive_tol)
        first = outcome.first
        # What the rule answers before the step refuses a direction that is rounding.
        seen = moopt.StepStatistics(gramian=first.gramian, active=first.active)
        weight = weighting(seen).weights[first.names.index("kl")].item()
        print(
            f"{name:28} {weight:5.3f}  {', '.join(first.inactive) or '-':8}"
            f"  {first.status.name}, moved {outcome.moved:.1e},"
            f" difference {outcome.same_as_without_kl:.0e} of it"
        )
        print(
            f"{'':28} forget probability {outcome.forget[0]:.3f} -> {outcome.forget[1]:.3f},"
            f" retain {outcome.retain[0]:.3f} -> {outcome.retain[1]:.3f}"
        )


if __name__ == "__main__":
    main()
