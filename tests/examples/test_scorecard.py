"""The scorecard of real (tiny) models: complete, free of NaN, honest about what is missing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from examples.llm_unlearning import metrics
from examples.llm_unlearning.evaluate import evaluate
from examples.llm_unlearning.measures import ATTACKS
from examples.llm_unlearning.model import ModelConfig, build_model
from examples.llm_unlearning.scorecard import (
    checkpoint_row,
    evaluate_world,
    reference,
    sample,
    scorecard,
)
from examples.llm_unlearning.tokenizer import world_tokenizer
from examples.llm_unlearning.world import World, build_world

CONFIG = ModelConfig(hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def world():
    return build_world(0, num_authors=6, num_forget=2, num_holdout=2)


@pytest.fixture(scope="module")
def tokenizer(world):
    return world_tokenizer(world, 400)


@pytest.fixture(scope="module")
def models(tokenizer):
    return [build_model(CONFIG, tokenizer, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def evaluations(models, tokenizer, world):
    return [evaluate_world(model, tokenizer, world, limit=12) for model in models]


def test_without_gold_every_number_is_finite_or_says_what_it_needs(evaluations):
    card = scorecard(evaluations[0]).as_dict()
    texts = {key: value for key, value in card.items() if isinstance(value, str)}
    assert set(texts.values()) == {"needs gold"}
    expected = {f"membership_{a}_{s}" for a in ATTACKS for s in ("gold", "distance")}
    assert set(texts) == expected | {key for key in card if key.startswith("ks_")}
    assert all(math.isfinite(v) for v in card.values() if not isinstance(v, str))


def test_with_all_references_everything_is_a_number(evaluations):
    own, gold, other = evaluations
    card = scorecard(
        own, gold=reference(gold), gold_other=reference(other), original=reference(own)
    )
    values = card.as_dict()
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())
    assert card.ks_statistic == card.ks_floor_statistic
    assert card.membership_loss_gold == reference(gold).membership["loss"]
    assert card.membership_loss_distance == abs(card.membership_loss - card.membership_loss_gold)


def test_values_are_the_metrics_of_the_evaluation(evaluations):
    evaluation = evaluations[0]
    card = scorecard(evaluation)
    forget, world_facts = evaluation["forget"], evaluation["world_facts"]
    assert card.forget_accuracy == metrics.exact_accuracy(forget.answers.matches).mean()
    ratios = metrics.truth_ratio(forget.paraphrases.logprobs, forget.wrong)
    assert card.forget_truth_ratio == metrics.forget_truth_ratio(ratios).mean()
    assert card.world_nll == metrics.answer_nll(world_facts.answers.logprobs).mean()
    members = metrics.min_k_score(forget.answers.standardised)
    rest = metrics.min_k_score(evaluation["holdout"].answers.standardised)
    assert card.membership_min_k_plus_plus == metrics.auc(members, rest)
    parts = [card.retain_probability, card.retain_rouge, card.retain_truth_ratio]
    assert card.retain_utility == float(metrics.harmonic_mean(np.array(parts)))


def test_one_reference_missing_is_named(evaluations):
    card = scorecard(evaluations[0], gold=reference(evaluations[1]))
    assert isinstance(card.ks_pvalue, float)
    assert card.ks_ceiling_pvalue == "needs gold_other"
    assert card.ks_floor_pvalue == "needs original"


def test_a_users_world_without_wrong_answers_and_extra_splits(models, tokenizer, world):
    bare = World(
        {
            split: tuple(dataclasses.replace(e, wrong_answers=()) for e in world[split][:4])
            for split in ("forget", "retain")
        }
    )
    evaluations = evaluate_world(models[0], tokenizer, bare)
    card = scorecard(evaluations, gold=reference(evaluations))
    assert card.forget_truth_ratio == "needs wrong answers"
    assert card.ks_pvalue == "needs wrong answers"
    assert card.retain_utility == "needs wrong answers"
    assert card.world_nll == "needs world set"
    assert card.forget_heldout_accuracy == "needs forget_heldout set"
    assert card.membership_loss == "needs holdout set"
    assert isinstance(card.forget_accuracy, float)


def test_the_forget_and_retain_sets_are_required(evaluations):
    for split in ("forget", "retain"):
        with pytest.raises(ValueError, match=f"needs the `{split}` set"):
            scorecard({k: v for k, v in evaluations[0].items() if k != split})


def test_checkpoint_row_agrees_with_the_scorecard(models, tokenizer, world):
    forget, retain = sample(world["forget"], 12), sample(world["retain"], 12)
    row = checkpoint_row(models[0], tokenizer, forget, retain)
    card = scorecard(evaluate_world(models[0], tokenizer, world, limit=12))
    for key in ("forget_accuracy", "forget_probability", "retain_rouge", "retain_truth_ratio"):
        assert row[key] == pytest.approx(getattr(card, key), rel=1e-12)
    assert row["retain_utility"] == pytest.approx(card.retain_utility, rel=1e-12)
    assert row["retain_utility_low"] <= row["retain_utility"] <= row["retain_utility_high"]
    assert all(type(value) is float for value in row.values())
    assert metrics.matched_checkpoint([row], gold_accuracy=1.0) == 0


def test_sample_is_the_same_for_every_model_and_covers_attributes(world):
    drawn = sample(world["retain"], 24)
    assert drawn == sample(world["retain"], 24)
    assert [e for e in world["retain"] if e in drawn] == list(drawn)
    assert len({example.attribute for example in drawn}) > 4
    assert sample(world["retain"], None) == world["retain"]


def test_rouge_without_generations_and_min_k_without_moments_are_errors(models, tokenizer, world):
    from examples.llm_unlearning.measures import membership_scores, rouge

    bare = evaluate(models[0], tokenizer, world["forget"][:2], generation=False)
    with pytest.raises(ValueError, match="generation=True"):
        rouge(bare)
    with pytest.raises(ValueError, match="standardised=True"):
        membership_scores(bare)
