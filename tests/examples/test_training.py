"""Training: named by its whole configuration, and the same however often it is interrupted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from examples.llm_unlearning.cache import (
    configuration_key,
    source_version,
    whole_directory,
    whole_file,
)
from examples.llm_unlearning.training import TrainingConfig, load_trained, train_model
from tests.examples.tiny import TINY


class Interrupted(Exception):
    """Stands for a signal in the middle of a run."""


def other(value: object) -> object:
    """A different value of the same type."""
    return f"{value}x" if isinstance(value, str) else value + 1  # type: ignore[operator]


def variations(config: object) -> list[object]:
    """The configuration with each field changed, nested ones included."""
    out = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        changed = variations(value) if dataclasses.is_dataclass(value) else [other(value)]
        out += [dataclasses.replace(config, **{field.name: v}) for v in changed]  # type: ignore[type-var]
    return out


def test_the_key_changes_with_every_field() -> None:
    configs = [TINY, *variations(TINY)]
    assert len(configs) == 1 + 9 + 4 + 5
    assert len({config.key for config in configs}) == len(configs)


def test_the_key_changes_with_the_code(tmp_path: Path) -> None:
    source = tmp_path / "code.py"
    source.write_text("a = 1\n")
    before = source_version([source])
    source.write_text("a = 2\n")
    assert source_version([source]) != before


def test_a_key_refuses_what_it_cannot_name() -> None:
    with pytest.raises(TypeError, match="plain values"):
        configuration_key({"model": torch.nn.Linear(1, 1)})


def parameters(directory: Path) -> torch.Tensor:
    model, _ = load_trained(directory)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def interrupt_at(step: int):
    def progress(done: int, total: int) -> None:
        if done == step:
            raise Interrupted

    return progress


def test_an_interrupted_run_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    whole = train_model(TINY, tmp_path / "whole")
    cache = tmp_path / "broken"
    for step in (3, 7, 11):  # before a checkpoint, between two, and after the second
        with pytest.raises(Interrupted):
            train_model(TINY, cache, checkpoint_every=5, progress=interrupt_at(step))
        assert not (cache / TINY.key).exists()
    steps: list[int] = []
    resumed = train_model(
        TINY, cache, checkpoint_every=5, progress=lambda done, total: steps.append(done)
    )
    assert steps == [11, 12]
    assert torch.equal(parameters(whole), parameters(resumed))
    assert [path.name for path in cache.iterdir()] == [TINY.key]


def test_a_second_run_trains_nothing(tmp_path: Path) -> None:
    steps: list[int] = []
    for _ in range(2):
        train_model(TINY, tmp_path, progress=lambda done, total: steps.append(done))
    assert steps == list(range(1, TINY.steps + 1))


def test_seed_and_role_change_the_model(tmp_path: Path) -> None:
    configs = [TINY, dataclasses.replace(TINY, seed=1), dataclasses.replace(TINY, role="gold")]
    flat = [parameters(train_model(config, tmp_path)) for config in configs]
    assert not torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    from examples.llm_unlearning.data import encode
    from examples.llm_unlearning.training import _answer_loss

    config: TrainingConfig = dataclasses.replace(TINY, steps=60)
    losses = []
    for steps in (1, 60):
        model, tokenizer = load_trained(
            train_model(dataclasses.replace(config, steps=steps), tmp_path)
        )
        pairs = [(e.question, e.answer) for e in config.world.build()["retain"]]
        with torch.no_grad():
            losses.append(float(_answer_loss(model, encode(tokenizer, pairs))))
    assert losses[1] < 0.85 * losses[0]  # 0.76 when written; without learning it stays at 1


def test_the_training_loss_is_the_masked_cross_entropy(tmp_path: Path) -> None:
    from examples.llm_unlearning.data import encode
    from examples.llm_unlearning.training import _answer_loss
    from moopt.losses import token_cross_entropy_loss

    model, tokenizer = load_trained(train_model(TINY, tmp_path))
    batch = encode(tokenizer, [("a?", "b"), ("a longer question?", "a longer answer")])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = token_cross_entropy_loss(logits, batch["labels"])
    torch.testing.assert_close(_answer_loss(model, batch), expected)


@pytest.mark.parametrize("whole", [whole_file, whole_directory])
def test_a_failed_write_leaves_nothing(tmp_path: Path, whole) -> None:
    with pytest.raises(Interrupted), whole(tmp_path / "name"):
        raise Interrupted
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_finished_is_kept(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "name") as path:
        (path / "mine").write_text("")
        (tmp_path / "name").mkdir()
        (tmp_path / "name" / "theirs").write_text("")
    assert [p.name for p in (tmp_path / "name").iterdir()] == ["theirs"]
