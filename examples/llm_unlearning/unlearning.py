"""The unlearning loop: one method, one learning rate, one budget of gradient evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from examples.llm_unlearning.data import batches, encode
from examples.llm_unlearning.methods import METHODS, Method, StepData
from examples.llm_unlearning.world import Example
from moopt import CommonDescent

#: Gradient evaluations at which a run is evaluated. Multiples of 6, so that methods with 1, 2 and
#: 3 evaluations per step stop at exactly the same budgets; denser early, where ascent collapses.
CHECKPOINTS = (0, 6, 12, 18, 24, 36, 48, 66, 84, 102, 120, 138, 156, 174, 192, 210)

Row = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlearningConfig:
    """One run of one method.

    Attributes:
        method: a name in `METHODS`.
        lr: AdamW's learning rate, constant.
        checkpoints: budgets at which the model is evaluated, increasing; the last one is the
            whole budget. Each is reached with the last step that fits.
        batch_size: rows of the forget batch and of the retain batch.
        seed: of the order of both data sets.
        weight_decay: AdamW's.
    """

    method: str
    lr: float
    checkpoints: tuple[int, ...] = CHECKPOINTS
    batch_size: int = 20
    seed: int = 0
    weight_decay: float = 0.01


def unlearn(
    model: Any,
    reference: Any,
    tokenizer: Any,
    forget: Sequence[Example],
    retain: Sequence[Example],
    config: UnlearningConfig,
    at_checkpoint: Callable[[int], bool],
) -> list[Row]:
    """Unlearn in place, stopping at each checkpoint for the caller to look at the model.

    Args:
        model: changed in place.
        reference: the model before unlearning; frozen by the caller.
        tokenizer: of both.
        forget, retain: what is trained on.
        config: method, learning rate and budget.
        at_checkpoint: called with the evaluations spent so far, first with 0; False ends the run.

    Returns:
        `StepRecord.as_dict()` of every step; empty for methods that add their losses up.
    """
    method = METHODS[config.method]
    device = next(model.parameters()).device
    adamw = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    optimizer = adamw if method.weighting is None else CommonDescent(adamw, method.weighting)
    streams = [
        batches(
            encode(tokenizer, [(e.question, e.answer) for e in examples]),
            config.batch_size,
            torch.Generator().manual_seed(config.seed + offset),
        )
        for offset, examples in enumerate((forget, retain))
    ]
    records: list[Row] = []
    spent = 0
    for budget in config.checkpoints:
        model.train()
        while spent + method.evaluations <= budget:
            forget_batch, retain_batch = (
                {key: value.to(device) for key, value in next(stream).items()} for stream in streams
            )
            data = StepData(model, reference, forget_batch, retain_batch)
            records += _step(method, optimizer, data)
            spent += method.evaluations
        model.eval()
        if not at_checkpoint(spent):
            break
    return records


def _step(method: Method, optimizer: torch.optim.Optimizer, data: StepData) -> list[Row]:
    """One step; its record where the method has a weighting."""
    optimizer.zero_grad()
    losses = {name: loss(data) for name, loss in method.losses.items()}
    if isinstance(optimizer, CommonDescent):
        record = optimizer.backward(losses)
        optimizer.step()
        return [record.as_dict()]
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return []


def checkpoints_within(budget: int) -> tuple[int, ...]:
    """`CHECKPOINTS` stretched to another budget, in multiples of 6, the budget itself the last.

    Args:
        budget: gradient evaluations, a positive multiple of 6.
    """
    if budget <= 0 or budget % 6:
        raise ValueError(f"`budget` must be a positive multiple of 6; got {budget}.")
    stretched = {round(c * budget / CHECKPOINTS[-1] / 6) * 6 for c in CHECKPOINTS}
    return tuple(sorted(stretched | {0, budget}))
