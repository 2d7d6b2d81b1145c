"""Training the original and gold models: cached, resumable, the same bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from examples.llm_unlearning.cache import (
    configuration_key,
    source_version,
    whole_directory,
    whole_file,
)
from examples.llm_unlearning.data import IGNORE_INDEX, batches, encode
from examples.llm_unlearning.model import ModelConfig, build_model
from examples.llm_unlearning.tokenizer import world_tokenizer
from examples.llm_unlearning.world import World, build_world

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
SOURCES = ("data", "model", "tokenizer", "training", "vocabulary", "world")

# Hashed at import: the version of the code that runs, whatever is edited meanwhile.
VERSION = source_version(HERE / f"{name}.py" for name in SOURCES)

Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The arguments of `build_world`."""

    seed: int = 0
    num_authors: int = 100
    num_forget: int = 10
    num_holdout: int = 10

    def build(self) -> World:
        """The world."""
        arguments = dataclasses.asdict(self)
        return build_world(arguments.pop("seed"), **arguments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything a trained model depends on.

    Attributes:
        role: "original" (all data) or "gold" (without the forget set).
        seed: of the initial weights and of the order of the data.
        steps, batch_size, lr, warmup, weight_decay, max_norm: AdamW with linear warm-up over
            `warmup` steps, then linear decay to 0, and gradient clipping at `max_norm`.
    """

    role: str
    seed: int = 0
    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    vocabulary_size: int = 1024
    steps: int = 600
    batch_size: int = 40
    lr: float = 5e-3
    warmup: int = 30
    weight_decay: float = 0.01
    max_norm: float = 1.0

    @property
    def key(self) -> str:
        """The cache key: configuration, source code of the training, and torch's version."""
        return configuration_key(self, VERSION, torch.__version__.split("+")[0])


def load_trained(
    directory: Path,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model and tokenizer that `train_model` wrote."""
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, PreTrainedTokenizerFast.from_pretrained(directory)


def train_model(
    config: TrainingConfig,
    cache: Path,
    *,
    checkpoint_every: int = 100,
    progress: Progress | None = None,
) -> Path:
    """Train one model, or find it in the cache; an interrupted run goes on where it stopped.

    Args:
        config: what to train.
        cache: the folder of all trained models.
        checkpoint_every: steps between checkpoints (weights, optimizer, schedule, step).
        progress: called after every step.

    Returns:
        A folder that `load_trained` reads. It is complete whenever it exists.
    """
    directory = cache / config.key
    if directory.is_dir():
        return directory
    world = config.world.build()
    tokenizer = world_tokenizer(world, config.vocabulary_size)
    model = build_model(config.model, tokenizer, config.seed)
    pairs = [(e.question, e.answer) for e in world.training_examples(config.role)]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_linear(config))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    checkpoint = cache / f"{config.key}.checkpoint.pt"
    done = _resume(checkpoint, parts)
    generator = torch.Generator().manual_seed(config.seed)
    # The data order is a function of the seed alone, so a resumed run skips the batches it has
    # seen; the model has no dropout, and so no other random numbers are drawn.
    data = itertools.islice(
        batches(encode(tokenizer, pairs), config.batch_size, generator), done, config.steps
    )
    model.train()
    for step, batch in enumerate(data, start=done + 1):
        optimizer.zero_grad()
        _answer_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_norm)
        optimizer.step()
        schedule.step()
        if step % checkpoint_every == 0 and step < config.steps:
            with whole_file(checkpoint) as path:
                states = {name: part.state_dict() for name, part in parts.items()}
                torch.save({"step": step, **states}, path)
        if progress is not None:
            progress(step, config.steps)
    with whole_directory(directory) as path:
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    checkpoint.unlink(missing_ok=True)
    return directory


def _answer_loss(model: LlamaForCausalLM, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy over supervised tokens.

    Logits are formed at those tokens only, and padding on the right needs no mask under causal
    attention: together a fifth of the time of a step.
    """
    hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state[:, :-1]
    targets = batch["labels"][:, 1:]
    supervised = targets != IGNORE_INDEX
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[supervised]), targets[supervised])


def _warmup_then_linear(config: TrainingConfig) -> Callable[[int], float]:
    def factor(step: int) -> float:
        rising = (step + 1) / config.warmup
        falling = (config.steps - step) / max(1, config.steps - config.warmup)
        return max(0.0, min(1.0, rising, falling))

    return factor


def _resume(checkpoint: Path, parts: dict[str, Any]) -> int:
    """Load the last checkpoint into `parts`; the number of steps it holds, 0 without one."""
    if not checkpoint.exists():
        return 0
    states = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    return states["step"]
