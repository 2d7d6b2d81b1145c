"""Constant, Mean and Sum: exact values, masks and errors."""

from __future__ import annotations

import pickle

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Constant, Mean, Sum

EYE = torch.eye(3, dtype=torch.float64)
NAMES = ("forget", "retain", "kl")
MASK = torch.tensor([True, False, True])


def weights(weighting, **fields) -> list[float]:
    return weighting(StepStatistics(gramian=EYE, **fields)).weights.tolist()


def test_values_with_and_without_a_mask() -> None:
    assert weights(Mean()) == [1 / 3] * 3
    assert weights(Mean(), active=MASK) == [0.5, 0.0, 0.5]
    assert weights(Sum()) == [1.0] * 3
    assert weights(Sum(), active=MASK) == [1.0, 0.0, 1.0]
    assert weights(Constant([1, -2, 3]), active=MASK) == [1.0, 0.0, 3.0]
    assert weights(Constant(weights=(1, 2, 3))) == [1.0, 2.0, 3.0]
    assert weights(Constant(torch.tensor([1.0, 2.0, 3.0]))) == [1.0, 2.0, 3.0]


def test_a_mapping_goes_by_name() -> None:
    named = Constant({"kl": 3.0, "forget": 1.0, "retain": 2.0, "absent": 9.0})
    assert weights(named, names=NAMES) == [1.0, 2.0, 3.0]
    assert named.needs == {"names"}
    assert Constant([1.0]).needs == frozenset()
    with pytest.raises(ValueError, match="needs the objectives' names"):
        weights(named)
    with pytest.raises(ValueError, match=r"\['kl'\] are missing"):
        weights(Constant({"forget": 1.0, "retain": 1.0}), names=NAMES)


def test_the_callers_changes_do_not_reach_it() -> None:
    given = {"forget": 1.0, "retain": 1.0, "kl": 1.0}
    weighting = Constant(given)
    given["kl"] = 5.0
    assert weights(weighting, names=NAMES) == [1.0] * 3
    assert weights(pickle.loads(pickle.dumps(weighting)), names=NAMES) == [1.0] * 3


def test_errors_name_the_rule_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="got 2 for 3 objectives"):
        weights(Constant([1.0, 2.0]))
    with pytest.raises(ValueError, match="must be finite and not empty"):
        Constant([1.0, float("nan")])
    with pytest.raises(ValueError, match="must be finite and not empty"):
        Constant([])
    with pytest.raises(TypeError, match="must be a sequence of numbers"):
        Constant("mgda")


def test_outputs_own_their_memory() -> None:
    """Weights written in place by a caller must not reach the next step."""
    groups = StepStatistics(gramian=EYE.expand(2, 3, 3), active=MASK)
    for weighting in (Mean(), Sum(), Constant([1.0, 2.0, 3.0])):
        for statistics in (groups, StepStatistics(gramian=EYE.expand(2, 3, 3))):
            first = weighting(statistics).weights
            expected = first.clone()
            first[0] += 1.0
            assert torch.equal(first[1], expected[1])
            assert torch.equal(weighting(statistics).weights, expected)
