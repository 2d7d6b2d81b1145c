"""The demo's language model: a small Llama built from a config, with random weights."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of the demo's Llama; the defaults give 0.2 M parameters."""

    hidden_size: int = 80
    intermediate_size: int = 160
    num_layers: int = 2
    num_heads: int = 4
    max_positions: int = 128


def build_model(config: ModelConfig, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights drawn from `seed`; the global generator is left as it was."""
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama)
