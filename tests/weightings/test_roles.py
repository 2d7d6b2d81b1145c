"""Roles: names, errors, and objectives that come and go."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import BLUR, GRU, PCD, NGDiff, Problem, Weighting, weighting_from_name
from moopt.weightings.role_sums import RoleSums, role_sums

EYE = torch.eye(3, dtype=torch.float64)


def sums_of(gramian: Tensor, forget: list[int], retain: list[int], **known: object) -> RoleSums:
    places = (np.array(role, dtype=np.intp) for role in (forget, retain))
    return role_sums(Problem.of(gramian.numpy(), **known), *places)


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


@pytest.mark.parametrize(
    "weighting", [NGDiff(forget="f", retain="r"), PCD(primary="f", secondary="r")]
)
def test_an_objective_that_is_left_out_needs_a_role_too(weighting: Weighting) -> None:
    """An inactive one, and one whose gradient is zero: neither is part of what is weighed."""
    names = ("f", "r", "kl")
    active = torch.tensor([True, True, False])
    zero = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    for given in (
        StepStatistics(gramian=EYE, names=names, active=active),
        StepStatistics(gramian=zero, names=names),
    ):
        with pytest.raises(ValueError, match=r"\['kl'\] have none"):
            weighting(given)


def test_errors_name_the_rule_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="`NGDiff` as configured needs the objectives' names"):
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
    sums = sums_of(jacobian @ jacobian.T, [0, 3], [1])
    first, second = jacobian[0] + jacobian[3], jacobian[1]
    assert (sums.forget, sums.retain) == pytest.approx((float(first.norm()), float(second.norm())))
    assert sums.cosine == pytest.approx(float(first @ second / first.norm() / second.norm()))
    assert sums.weights(2.0, 5.0).tolist() == [2.0, 5.0, 0.0, 2.0]


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_rounding_is_not_a_gradient_at_any_scale(scale: float) -> None:
    row = scale * torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64)
    jacobian = torch.stack([row, 3.0 * row, -4.0 * row, row])
    sums = sums_of(jacobian @ jacobian.T, [0, 1, 2], [3])
    assert sums.forget == 0
    assert sums.retain == pytest.approx(float(row.norm()))
    assert sums.cosine == 0.0


def test_the_rounding_of_the_gramian_is_not_a_gradient_either() -> None:
    """||g_1 + g_2||^2 is 2.5e-9 of (||g_1|| + ||g_2||)^2."""
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1e-4], [0.0, 1.0]], dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    assert sums_of(gramian, [0, 1], [2], noise=1e-9).forget == pytest.approx(1e-4)
    assert sums_of(gramian, [0, 1], [2], noise=1e-8).forget == 0.0


def test_one_objective_alone_is_a_role() -> None:
    sums = sums_of(torch.tensor([[4.0]], dtype=torch.float64), [0], [])
    assert (sums.forget, sums.retain) == (2.0, 0.0)
    assert sums.weights(3.0, 5.0).tolist() == [3.0]
