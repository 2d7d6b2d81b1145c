"""Question-answer pairs as token tensors: the answer is supervised, the prompt is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100
PROMPT = "Question: {question}\nAnswer:"


def encode(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Tokenise (question, answer) pairs, padded on the right.

    Args:
        tokenizer: a Hugging Face tokenizer with an end-of-sequence token.
        pairs: (question, answer) texts; at least one.

    Returns:
        int64 tensors of shape [len(pairs), T]: `input_ids`; `attention_mask`, 1 on tokens and 0
        on padding; `labels`, which are `input_ids` on the answer and its end-of-sequence token
        and -100 on the prompt and on padding. Not shifted: position t's label is its own token.

    Raises:
        ValueError: without pairs, or where the tokenizer has no end-of-sequence token.
    """
    if not pairs:
        raise ValueError("`pairs` of `encode` must hold at least one (question, answer); got none.")
    if tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` of `encode` has no `eos_token`; set one before encoding.")
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts = _token_ids(tokenizer, [PROMPT.format(question=question) for question, _ in pairs])
    answers = _token_ids(tokenizer, [" " + answer for _, answer in pairs])
    rows = [
        (begin + prompt, [*answer, tokenizer.eos_token_id])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    padding = tokenizer.pad_token_id
    padding = tokenizer.eos_token_id if padding is None else padding
    input_ids = torch.full((len(rows), length), padding)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    for i, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        input_ids[i, :end] = torch.tensor(prompt + answer)
        attention_mask[i, :end] = 1
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def select(encoded: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The given rows of an encoded data set, trimmed to the longest of them."""
    length = int(encoded["attention_mask"][rows].sum(dim=1).max())
    return {key: value[rows, :length] for key, value in encoded.items()}


def batches(
    encoded: dict[str, Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """Batches without end: each epoch is a new permutation drawn from `generator`.

    A batch may straddle two epochs, so that every batch has `batch_size` rows (or the whole
    data set, where that is smaller).
    """
    count = len(encoded["input_ids"])
    batch_size = min(batch_size, count)
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        if len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(count, generator=generator)])
        yield select(encoded, queue[:batch_size])
        queue = queue[batch_size:]


def in_order(encoded: dict[str, Tensor], batch_size: int) -> Iterator[dict[str, Tensor]]:
    """One pass over the data in its order, for evaluation."""
    count = len(encoded["input_ids"])
    for start in range(0, count, batch_size):
        yield select(encoded, torch.arange(start, min(start + batch_size, count)))
