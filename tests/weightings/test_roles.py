"""Roles: names, errors, and objectives that come and go."""

from __future__ import annotations

import pickle

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import BLUR, GRU, NGDiff, weighting_from_name
from moopt.weightings.role_sums import role_sums

EYE = torch.eye(3, dtype=torch.float64)


def test_one_name_and_a_list_of_one_are_the_same() -> None:
    one = GRU(forget="a", retain="b")
    assert one == GRU(forget=["a"], retain=("b",))
    assert one.forget == ("a",)
    assert one.is_pair
    assert one.needs == {"names"}
    assert not GRU(forget="a", retain=["b", "c"]).is_pair
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(one) == hash(GRU(forget=["a"], retain="b"))


def test_the_callers_changes_do_not_reach_it() -> None:
    names = ["b", "c"]
    weighting = NGDiff(forget="a", retain=names)
    names.append("d")
    assert weighting.retain == ("b", "c")


def test_order_of_the_step_does_not_matter() -> None:
    weighting = BLUR(forget="f", retain=["r", "k"], gamma=3.0)
    gramian = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    output = weighting(StepStatistics(gramian=gramian, names=("r", "f", "k")))
    assert output.weights.tolist() == [1.0, 3.0, 1.0]


def test_an_objective_without_a_role_is_an_error() -> None:
    weighting = NGDiff(forget="f", retain="r")
    with pytest.raises(ValueError, match=r"\['kl'\] have none.*`forget`, `retain`"):
        weighting(StepStatistics(gramian=EYE, names=("f", "r", "kl")))


def test_errors_name_the_rule_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="`NGDiff` needs the objectives' names"):
        NGDiff(forget="f", retain="r")(StepStatistics(gramian=EYE))
    with pytest.raises(ValueError, match="at least one name, each once"):
        GRU(forget=[], retain="r")
    with pytest.raises(ValueError, match="at least one name, each once"):
        GRU(forget="f", retain=["r", "r"])
    with pytest.raises(TypeError, match="`retain` of `GRU` must be an objective's name"):
        GRU(forget="f", retain=[1])
    with pytest.raises(ValueError, match=r"must not repeat.*\['f'\]"):
        GRU(forget="f", retain=["r", "f"])
    with pytest.raises(ValueError, match=r"moopt.weightings.GRU\(forget='forget'"):
        weighting_from_name("gru")


def test_auxiliary_rows_need_no_role() -> None:
    statistics = StepStatistics(gramian=EYE, names=("f", "r"), auxiliary=("drift",))
    weights = NGDiff(forget="f", retain="r")(statistics).weights
    assert weights.tolist() == [1.0, 1.0, 0.0]


def test_sums_are_those_of_the_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    jacobian = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    active = torch.tensor([True, True, False, True])
    sums = role_sums(jacobian @ jacobian.T, ([0, 3], [1, 2]), active)
    first, second = jacobian[0] + jacobian[3], jacobian[1]
    assert torch.allclose(sums.norms, torch.stack([first.norm(), second.norm()]))
    assert float(sums.cosines[0, 1]) == pytest.approx(
        float(first @ second / first.norm() / second.norm())
    )
    assert sums.members.tolist() == [[True, False, False, True], [False, True, False, False]]


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_rounding_is_not_a_gradient_at_any_scale(scale: float) -> None:
    row = scale * torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64)
    jacobian = torch.stack([row, 3.0 * row, -4.0 * row, row])
    sums = role_sums(jacobian @ jacobian.T, ([0, 1, 2], [3]))
    assert sums.norms[0] == 0
    assert float(sums.norms[1]) == pytest.approx(float(row.norm()))
    assert sums.cosines[0].tolist() == [0.0, 0.0]
    assert float(sums.cosines[1, 1]) == pytest.approx(1.0)


def test_one_objective_alone_is_a_role() -> None:
    sums = role_sums(torch.tensor([[4.0]], dtype=torch.float64), ([0], []))
    assert sums.norms.tolist() == [2.0, 0.0]
    assert sums.weights(torch.tensor([3.0, 5.0], dtype=torch.float64)).tolist() == [3.0]
