"""A byte-level BPE tokenizer, trained in this process in milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from examples.llm_unlearning.data import PROMPT
from examples.llm_unlearning.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PADDING = "<|pad|>"
END = "<|end|>"


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts; any text stays encodable, since every byte is a token."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PADDING, END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PADDING, eos_token=END)


def world_tokenizer(world: World, vocabulary_size: int = 1024) -> PreTrainedTokenizerFast:
    """The tokenizer of a world: every split's sentences, so that no split is spelt out in bytes.

    It sees the words of the forget and holdout splits, never which fact belongs to whom: a
    tokenizer shared by the original and the gold model, as in published unlearning benchmarks.
    """
    texts = [
        PROMPT.format(question=example.question) + " " + example.answer
        for examples in world.splits.values()
        for example in examples
    ]
    return train_tokenizer(texts, vocabulary_size)
