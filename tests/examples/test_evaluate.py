"""Evaluation against one unpadded example at a time, and against Hugging Face's own loss."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from examples.llm_unlearning import evaluate as evaluation
from examples.llm_unlearning.data import IGNORE_INDEX, encode
from examples.llm_unlearning.evaluate import evaluate, greedy_answers, score_answers
from examples.llm_unlearning.model import ModelConfig, build_model
from examples.llm_unlearning.tokenizer import world_tokenizer
from examples.llm_unlearning.world import build_world

# Padding changes the order of float32 sums of a few hundred terms.
RTOL = 2e-5


@pytest.fixture(scope="module")
def world():
    return build_world(0, num_authors=6, num_forget=2, num_holdout=2)


@pytest.fixture(scope="module")
def tokenizer(world):
    return world_tokenizer(world, 400)


@pytest.fixture(scope="module")
def model(world, tokenizer):
    """Trained just enough that some answers are known, some in part and some not at all."""
    config = ModelConfig(hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2)
    model = build_model(config, tokenizer, seed=0)
    batch = encode(tokenizer, [(e.question, e.answer) for e in world["forget"][:16]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model


@pytest.fixture
def pairs(world):
    return [(e.question, e.answer) for e in (*world["forget"][:24], *world["holdout"][:6])]


def one_at_a_time(model, tokenizer, pair):
    """The answer's tokens, their log-probabilities and whole distributions, without padding."""
    row = encode(tokenizer, [pair])
    with torch.no_grad():
        logits = model(input_ids=row["input_ids"]).logits[0].double()
    labels = row["labels"][0]
    positions = (labels != IGNORE_INDEX).nonzero()[:, 0]
    log_p = torch.log_softmax(logits[positions - 1], dim=-1)
    return labels[positions], log_p


def test_scores_agree_with_one_example_at_a_time(model, tokenizer, pairs):
    scores = score_answers(model, tokenizer, pairs, standardised=True)
    lengths = {len(tokens) for tokens in scores.logprobs}
    assert len(lengths) > 2  # ragged, so that order and padding matter
    assert 0 < sum(map(np.all, scores.matches)) < len(pairs)
    for i, pair in enumerate(pairs):
        tokens, log_p = one_at_a_time(model, tokenizer, pair)
        chosen = log_p.gather(1, tokens[:, None])[:, 0]
        np.testing.assert_allclose(scores.logprobs[i], chosen, rtol=RTOL, atol=RTOL)
        assert scores.matches[i].tolist() == (log_p.argmax(-1) == tokens).tolist()
        p = log_p.exp()
        mean = (p * log_p).sum(-1)
        deviation = ((p * log_p**2).sum(-1) - mean**2).sqrt()
        # The standardised value divides float32 differences by the deviation.
        np.testing.assert_allclose(
            scores.standardised[i], (chosen - mean) / deviation, rtol=1e-3, atol=1e-3
        )


def test_scores_are_hugging_faces_own_loss(model, tokenizer, pairs):
    scores = score_answers(model, tokenizer, pairs)
    assert scores.standardised is None
    for i, pair in enumerate(pairs[:6]):
        with torch.no_grad():
            loss = model(**encode(tokenizer, [pair])).loss
        assert -scores.logprobs[i].mean() == pytest.approx(float(loss), rel=RTOL)


def test_small_batches_change_nothing(model, tokenizer, pairs, monkeypatch):
    whole = score_answers(model, tokenizer, pairs)
    generated = greedy_answers(model, tokenizer, pairs)
    monkeypatch.setattr(evaluation, "LOGITS_PER_BATCH", 1)  # one row a batch
    single = score_answers(model, tokenizer, pairs)
    for a, b in zip(whole.logprobs, single.logprobs, strict=True):
        np.testing.assert_allclose(a, b, rtol=RTOL, atol=RTOL)
    assert greedy_answers(model, tokenizer, pairs) == generated


def test_greedy_answers_are_the_arg_max_one_token_at_a_time(model, tokenizer, pairs):
    generated = greedy_answers(model, tokenizer, pairs, max_new_tokens=12)
    for pair, text in zip(pairs, generated, strict=True):
        row = encode(tokenizer, [pair])
        ids = row["input_ids"][:, : int((row["labels"][0] == IGNORE_INDEX).sum())]
        new = []
        for _ in range(12):
            with torch.no_grad():
                token = model(input_ids=ids).logits[0, -1].argmax()
            if token == tokenizer.eos_token_id:
                break
            new.append(int(token))
            ids = torch.cat([ids, token.reshape(1, 1)], dim=1)
        assert text == tokenizer.decode(new, skip_special_tokens=True).strip()


def test_known_answers_are_not_decoded_again_and_come_out_the_same(
    model, tokenizer, pairs, monkeypatch
):
    matches = score_answers(model, tokenizer, pairs).matches
    decoded = greedy_answers(model, tokenizer, pairs)
    assert greedy_answers(model, tokenizer, pairs, known=matches) == decoded
    sure = [pair for pair, match in zip(pairs, matches, strict=True) if match.all()]
    monkeypatch.setattr(model, "generate", None)  # must not be called for what is known
    assert greedy_answers(model, tokenizer, sure, known=[np.array([True])] * len(sure)) == [
        answer for _, answer in sure
    ]


def test_greedy_whatever_the_models_own_generation_settings(model, tokenizer, pairs, monkeypatch):
    expected = greedy_answers(model, tokenizer, pairs[:4])
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    monkeypatch.setattr(model.generation_config, "temperature", 5.0)
    monkeypatch.setattr(model.generation_config, "top_p", 0.5)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 9.0)
    messages = []
    handler = logging.Handler()
    handler.emit = messages.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        assert greedy_answers(model, tokenizer, pairs[:4]) == expected
    finally:
        logger.removeHandler(handler)
    assert [message.getMessage() for message in messages] == []


def test_evaluate_splits_answers_paraphrases_and_wrong_answers(model, tokenizer, world):
    examples = world["forget"][:5]
    result = evaluate(model, tokenizer, examples)
    for i, example in enumerate(examples):
        groups = (
            (example.answer, result.answers.logprobs[i]),
            (example.paraphrased_answer, result.paraphrases.logprobs[i]),
            *zip(example.wrong_answers, result.wrong[i], strict=True),
        )
        for text, logprobs in groups:
            tokens, log_p = one_at_a_time(model, tokenizer, (example.question, text))
            expected = log_p.gather(1, tokens[:, None])[:, 0]
            np.testing.assert_allclose(logprobs, expected, rtol=RTOL, atol=RTOL)
    assert len(result.generations) == 5


def test_evaluate_leaves_out_what_was_not_asked_for(model, tokenizer, world):
    result = evaluate(model, tokenizer, world["forget"][:2], truth_ratio=False, generation=False)
    assert (result.paraphrases, result.wrong, result.generations) == (None, None, None)
    with pytest.raises(ValueError, match="at least one example"):
        evaluate(model, tokenizer, [])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model, tokenizer, pairs, training):
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score_answers(model, tokenizer, pairs[:3])
    greedy_answers(model, tokenizer, pairs[:3])
    assert model.training is training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None or p.requires_grad for p in model.parameters())


def test_a_diverged_model_is_counted_and_never_matches(world, tokenizer, pairs):
    config = ModelConfig(hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2)
    model = build_model(config, tokenizer, seed=0)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    scores = score_answers(model, tokenizer, pairs, standardised=True)
    total = sum(len(tokens) for tokens in scores.logprobs)
    assert scores.num_nonfinite == total
    assert not any(tokens.any() for tokens in scores.matches)
    assert all(np.isfinite(tokens).all() for tokens in scores.standardised)
    assert scores.part(0, 1).num_nonfinite == len(scores.logprobs[0])
