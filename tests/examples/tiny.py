"""A world and a model small enough to train inside a test."""

from __future__ import annotations

import json
from pathlib import Path

from examples.llm_unlearning.model import ModelConfig
from examples.llm_unlearning.training import TrainingConfig, WorldConfig
from examples.llm_unlearning.world import Example, World

TINY_WORLD = WorldConfig(num_authors=6, num_forget=2, num_holdout=1)
TINY = TrainingConfig(
    role="original",
    world=TINY_WORLD,
    model=ModelConfig(hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2),
    vocabulary_size=400,
    steps=12,
    batch_size=8,
    warmup=3,
)


def write_data(directory: Path, world: World, splits: tuple[str, ...], limit: int = 12) -> Path:
    """Write splits of a world as a user's data folder."""
    directory.mkdir(parents=True, exist_ok=True)
    for split in splits:
        lines = [json.dumps(fields(example)) for example in world[split][:limit]]
        (directory / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return directory


def fields(example: Example) -> dict[str, object]:
    """The documented fields of one example."""
    return {
        "question": example.question,
        "answer": example.answer,
        "paraphrased_answer": example.paraphrased_answer,
        "wrong_answers": list(example.wrong_answers),
        "subject": example.subject,
        "attribute": example.attribute,
    }
