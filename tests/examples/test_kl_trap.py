"""From the reference model the divergence is inactive, and the first step is the one without it."""

from __future__ import annotations

import pytest

from examples.llm_unlearning.data import encode
from examples.llm_unlearning.kl_trap import NAIVE, rules, run
from examples.llm_unlearning.training import load_trained, train_model
from tests.examples.tiny import TINY


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory):
    model, tokenizer = load_trained(train_model(TINY, tmp_path_factory.mktemp("models")))
    world = TINY.world.build()
    sets = (
        encode(tokenizer, [(e.question, e.answer) for e in world[split]])
        for split in ("forget", "retain")
    )
    return model.eval(), *sets


@pytest.mark.parametrize("name", rules())
def test_the_first_step_is_the_one_without_the_divergence(setting, name):
    weighting, inactive_tol = rules()[name]
    outcome = run(*setting, weighting, inactive_tol, steps=2, batch_size=4)
    if name == NAIVE:  # the violator
        assert outcome.first.inactive == ()
        assert outcome.same_as_without_kl > 1
        return
    assert outcome.first.inactive == ("kl",)
    assert outcome.first.weights[outcome.first.names.index("kl")] == 0
    assert outcome.same_as_without_kl == 0
