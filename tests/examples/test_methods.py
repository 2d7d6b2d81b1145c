"""The methods and their loop: what is counted, what is combined, what moves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.llm_unlearning.evaluate import score_answers
from examples.llm_unlearning.methods import DEFAULT_MOLLM, DEMO_METHODS, METHODS
from examples.llm_unlearning.training import load_trained, train_model
from examples.llm_unlearning.unlearning import (
    CHECKPOINTS,
    UnlearningConfig,
    checkpoints_within,
    unlearn,
)
from tests.examples.tiny import TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(TINY, tmp_path_factory.mktemp("models"))


def run(
    trained: Path, method: str, checkpoints: tuple[int, ...] = (0, 6, 18), stop: int = 10**9
) -> tuple[Any, Any, list[int], list[dict[str, float]]]:
    """The model and tokenizer after a run, the budgets it saw, and its records."""
    model, tokenizer = load_trained(trained)
    reference = copy.deepcopy(model).requires_grad_(False)
    world = TINY.world.build()
    spent: list[int] = []

    def look(evaluations: int) -> bool:
        spent.append(evaluations)
        return evaluations < stop

    config = UnlearningConfig(method=method, lr=1e-2, checkpoints=checkpoints, batch_size=4)
    arguments = (model, reference, tokenizer, world["forget"], world["retain"], config, look)
    return model, tokenizer, spent, unlearn(*arguments)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_spends_exactly_the_budget_and_forgets(trained: Path, method: str) -> None:
    forget = [(e.question, e.answer) for e in TINY.world.build()["forget"]]
    before = score_answers(*load_trained(trained), forget)
    model, tokenizer, spent, records = run(trained, method)
    after = score_answers(model, tokenizer, forget)
    assert spent == [0, 6, 18]
    if METHODS[method].weighting is None:
        assert records == []
    else:
        assert len(records) == 18 / METHODS[method].evaluations
        assert records[0]["inactive/kl"] == 1.0  # at the reference its gradient is zero
        assert records[0]["weight/kl"] == 0.0
    # Twelve steps of training leave p near 1/400, where UCE and NPO hardly move it; ascent must.
    if "ascent" in {loss.__name__ for loss in METHODS[method].losses.values()}:
        assert sum(map(sum, after.logprobs)) < sum(map(sum, before.logprobs))


def test_a_sum_counts_batches_and_a_weighting_counts_objectives() -> None:
    for method in METHODS.values():
        names = set(method.losses)
        batches = len({"forget" if name == "forget" else "retain" for name in names})
        expected = batches if method.weighting is None else len(names)
        assert method.evaluations == expected


def test_the_table_is_what_the_issue_lists() -> None:
    assert len(METHODS) == 13
    assert set(DEMO_METHODS) <= set(METHODS)
    assert DEFAULT_MOLLM in METHODS
    assert all(c % 6 == 0 for c in CHECKPOINTS)


def test_the_run_stops_when_told(trained: Path) -> None:
    _, _, spent, _ = run(trained, "GradDiff", stop=6)
    assert spent == [0, 6]


def test_the_same_seed_gives_the_same_bits(trained: Path) -> None:
    first, second = (run(trained, DEFAULT_MOLLM)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoints_of_other_budgets() -> None:
    assert checkpoints_within(CHECKPOINTS[-1]) == CHECKPOINTS
    assert checkpoints_within(6) == (0, 6)
    longer = checkpoints_within(3000)
    assert longer[0] == 0
    assert longer[-1] == 3000
    assert all(c % 6 == 0 for c in longer)
    with pytest.raises(ValueError, match="multiple of 6"):
        checkpoints_within(7)
