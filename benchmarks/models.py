"""The models that the step benchmarks train, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 8192
CONTEXT = 32


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).unbind(2)
        # Written out: the fused kernel has no rule for vmap, which TorchJD's default needs.
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * (width // self.heads) ** -0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v.transpose(1, 2)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """A GPT-like model: 23.2 million parameters in 100 tensors."""

    def __init__(self, width: int = 448, layers: int = 8, heads: int = 7) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.blocks(self.tokens(ids) + self.places[: ids.shape[1]])
        return F.linear(self.norm(hidden), self.tokens.weight)


class Perceptron(nn.Module):
    """Six equal layers: 25.2 million parameters, hardly any activations."""

    def __init__(self, width: int = 2048, layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def language_losses(
    model: nn.Module, batches: list[Tensor], *, shared_forward: bool
) -> list[Tensor]:
    """One next-token loss per batch, from one forward pass each or from a common one."""
    if shared_forward:
        logits = list(model(torch.cat(batches)).split([len(b) for b in batches]))
    else:
        logits = [model(b) for b in batches]
    return [
        F.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        for out, ids in zip(logits, batches, strict=True)
    ]
