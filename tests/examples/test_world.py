"""The world: nothing leaks between its splits, and its facts share structure."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.llm_unlearning import vocabulary as words
from examples.llm_unlearning.world import SPLITS, World, build_world

SEEDS = st.integers(min_value=0, max_value=2**32)
# The finite sample alone gives independent attributes about (k - 1)(l - 1) / 2n nats, 0.13 for
# k = 6 languages, l = 10 jobs and n = 180 authors; correlated attributes measured above 0.8.
LEAST_MUTUAL_INFORMATION = 0.4


def check_no_leak(world: World) -> None:
    """Gold never sees a forget author; no held-out phrasing of a fact is trained."""
    forgotten = {e.subject for e in world["forget"]}
    strangers = {e.subject for e in world["holdout"]}
    for example in world.training_examples("gold"):
        assert not any(name in example.question + example.answer for name in forgotten)
    trained = {(e.subject, e.attribute, e.phrasing) for e in world.training_examples("original")}
    assert not strangers & {subject for subject, _, _ in trained}
    for split in SPLITS:
        if split.endswith(("_heldout", "_validation")):
            untrained = {(e.subject, e.attribute, e.phrasing) for e in world[split]}
            assert not untrained & trained, split
    validation = {e.subject for e in world["retain_validation"]}
    assert not validation & {e.subject for e in world["retain_heldout"]}


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_nothing_leaks(seed: int) -> None:
    check_no_leak(build_world(seed))


def test_a_leak_is_found() -> None:
    world = build_world(0)
    moved = dataclasses.replace(world["forget_heldout"][0], split="retain")
    leaky = World({**world.splits, "retain": (*world["retain"], moved)}, world.biographies)
    with pytest.raises(AssertionError):
        check_no_leak(leaky)


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_every_example_is_answerable(seed: int) -> None:
    world = build_world(seed)
    for split, example in ((s, e) for s in SPLITS for e in world[s]):
        assert example.split == split
        assert example.subject in example.question
        assert example.paraphrased_answer != example.answer
        assert example.paraphrased_answer not in example.wrong_answers
        assert len(set(example.wrong_answers)) == 4
        if example.subject in world.biographies:
            value = world.biographies[example.subject][example.attribute]
            assert value in example.answer
            assert value in example.paraphrased_answer


def test_sizes() -> None:
    world = build_world(0)
    assert len({e.subject for e in world.training_examples("original")}) == 100 + 30
    assert len(words.AUTHOR_ATTRIBUTES) == 8
    assert len(world["forget"]) == 10 * 8 * 3
    assert len(world["forget_heldout"]) == 10 * 8
    assert len(world["world_facts_heldout"]) == 60


def test_the_seed_decides() -> None:
    assert build_world(3) == build_world(3)
    assert build_world(3).biographies != build_world(4).biographies


def mutual_information(pairs: list[tuple[str, str]]) -> float:
    """In nats, of the empirical distribution."""
    joint = collections.Counter(pairs)
    first = collections.Counter(a for a, _ in pairs)
    second = collections.Counter(b for _, b in pairs)
    total = len(pairs)
    return sum(
        n / total * math.log(n * total / (first[a] * second[b])) for (a, b), n in joint.items()
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("birth_city", "language"),
        ("genre", "publisher"),
        ("genre", "award"),
        ("award", "award_decade"),
    ],
)
def test_attributes_are_correlated(one: str, other: str) -> None:
    facts = build_world(0, num_authors=170).biographies.values()
    assert mutual_information([(f[one], f[other]) for f in facts]) > LEAST_MUTUAL_INFORMATION


def test_the_mother_is_independent() -> None:
    facts = build_world(0, num_authors=170).biographies.values()
    pairs = [(f["language"], f["mother"]) for f in facts]
    assert mutual_information(pairs) < LEAST_MUTUAL_INFORMATION


def test_every_phrasing_is_trained_for_other_facts() -> None:
    world = build_world(0)
    seen = {(e.attribute, e.phrasing) for e in world.training_examples("gold")}
    assert seen >= set(itertools.product(words.AUTHOR_ATTRIBUTES, range(5)))


@pytest.mark.parametrize("num_forget", [0, 99])
def test_impossible_sizes(num_forget: int) -> None:
    with pytest.raises(ValueError, match="num_forget"):
        build_world(0, num_authors=100, num_forget=num_forget)


def test_unknown_role() -> None:
    with pytest.raises(ValueError, match="'original' or 'gold'"):
        build_world(0).training_examples("silver")
