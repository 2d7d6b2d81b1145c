"""Encoding: the answer and its end are supervised, everything else is not."""

from __future__ import annotations

import itertools

import pytest
import torch

from examples.llm_unlearning.data import IGNORE_INDEX, PROMPT, batches, encode, in_order
from examples.llm_unlearning.tokenizer import world_tokenizer
from examples.llm_unlearning.world import World, build_world


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0, num_authors=6, num_forget=2, num_holdout=1)


def test_only_the_answer_is_supervised(world: World) -> None:
    tokenizer = world_tokenizer(world, 400)
    pairs = [(e.question, e.answer) for e in world["forget"]]
    encoded = encode(tokenizer, pairs)
    for i, (question, answer) in enumerate(pairs):
        labels, ids = encoded["labels"][i], encoded["input_ids"][i]
        length = int(encoded["attention_mask"][i].sum())
        supervised = labels != IGNORE_INDEX
        assert torch.equal(labels[supervised], ids[supervised])
        assert ids[length - 1] == tokenizer.eos_token_id
        assert labels[length - 1] == tokenizer.eos_token_id
        assert (labels[length:] == IGNORE_INDEX).all()
        assert tokenizer.decode(labels[supervised][:-1]) == " " + answer
        prompt = ids[: length - int(supervised.sum())]
        assert tokenizer.decode(prompt) == PROMPT.format(question=question)


def test_a_tokenizer_without_padding_token(world: World) -> None:
    tokenizer = world_tokenizer(world, 400)
    tokenizer.pad_token = None
    encoded = encode(tokenizer, [("a?", "b"), ("a longer question?", "a longer answer")])
    assert encoded["input_ids"][0, -1] == tokenizer.eos_token_id
    assert encoded["labels"][0, -1] == IGNORE_INDEX


def test_no_pairs_and_no_end_token(world: World) -> None:
    tokenizer = world_tokenizer(world, 400)
    with pytest.raises(ValueError, match="at least one"):
        encode(tokenizer, [])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        encode(tokenizer, [("a", "b")])


def test_batches_follow_the_seed_and_cover_each_epoch() -> None:
    encoded = {"input_ids": torch.arange(10)[:, None], "attention_mask": torch.ones(10, 1).long()}

    def drawn(seed: int) -> list[int]:
        stream = batches(encoded, 4, torch.Generator().manual_seed(seed))
        return torch.cat([b["input_ids"][:, 0] for b in itertools.islice(stream, 5)]).tolist()

    assert drawn(0) == drawn(0) != drawn(1)
    assert sorted(drawn(0)[:10]) == sorted(drawn(0)[10:]) == list(range(10))


def test_a_batch_larger_than_the_data() -> None:
    encoded = {"input_ids": torch.arange(3)[:, None], "attention_mask": torch.ones(3, 1).long()}
    batch = next(batches(encoded, 8, torch.Generator()))
    assert sorted(batch["input_ids"][:, 0].tolist()) == [0, 1, 2]


def test_in_order_trims_padding(world: World) -> None:
    tokenizer = world_tokenizer(world, 400)
    encoded = encode(tokenizer, [("a?", "b"), ("a longer question?", "a longer answer")])
    first, second = in_order(encoded, 1)
    assert first["input_ids"].shape[1] < second["input_ids"].shape[1]
