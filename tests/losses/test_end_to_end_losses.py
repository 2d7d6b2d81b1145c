"""The losses on a real causal language model: transformers' own shift, and what training does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moopt.losses import token_cross_entropy_loss, token_log_probs
from tests.losses.cases import CASES, LossCase
from tests.losses.oracles import IGNORED

transformers = pytest.importorskip("transformers")

VOCABULARY = 40


def llama(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (3, 9), generator=generator)
    labels = tokens.clone()
    labels[:, :4] = IGNORED  # the prompts
    labels[1, 7:] = IGNORED  # padding
    return tokens, labels


def test_cross_entropy_is_the_model_s_own_loss() -> None:
    model = llama()
    tokens, labels = batch()
    output = model(input_ids=tokens, labels=labels)
    expected = torch.autograd.grad(output.loss, list(model.parameters()), retain_graph=True)
    value = token_cross_entropy_loss(output.logits, labels)
    torch.testing.assert_close(value, output.loss)
    got = torch.autograd.grad(value, list(model.parameters()))
    torch.testing.assert_close(got, expected)


FORGETS = {"gradient_ascent", "uce", "npo", "npo_beta_3", "simnpo", "simnpo_margin"}


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_training_moves_the_probability_of_the_labels(case: LossCase) -> None:
    model = llama(torch.bfloat16)
    tokens, labels = batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):  # learn the batch first, so that there is something to forget
        optimizer.zero_grad()
        token_cross_entropy_loss(model(input_ids=tokens).logits, labels).backward()
        optimizer.step()
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        # NPO starts at its reference; KL gets one to move to, with its vocabulary rotated.
        reference = before if case.name in FORGETS else before.roll(1, dims=-1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = case.call(model(input_ids=tokens).logits, labels, reference)
        losses.append(loss.item())
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
    assert losses[-1] < losses[0]
    after = model(input_ids=tokens).logits
    probability = [
        values[mask].exp().mean()
        for values, mask in (token_log_probs(z, labels) for z in (before, after))
    ]
    if case.name in FORGETS:
        assert probability[0] > 0.2
        assert probability[1] < probability[0] / 2
    elif case.name == "cross_entropy":
        assert probability[1] > probability[0]
