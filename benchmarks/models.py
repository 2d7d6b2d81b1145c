"""The models that the step benchmarks train."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Six equal layers: 25.2 million parameters, hardly any activations."""

    def __init__(self, width: int = 2048, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def llama(
    *, vocabulary: int = 8192, width: int = 384, hidden: int = 1120, layers: int = 8, heads: int = 6
) -> nn.Module:
    """A Llama of 20 million parameters from transformers' own code, with random weights.

    Attention is written out: the fused kernel has no rule for vmap, which TorchJD's default needs.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3 or 1,
        attn_implementation="eager",
        use_cache=False,
    )
    return LlamaForCausalLM(config)
