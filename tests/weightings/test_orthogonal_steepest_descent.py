"""OrthogonalSteepestDescent against a dense projection, its two stages and its traps."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

import moopt
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Guarantee, OrthogonalSteepestDescent
from tests.cases import all_cases
from tests.weightings.forgetting import IDENTITY_TOL, PAIRS, check_promise, weigh

PAIR = OrthogonalSteepestDescent(forget="objective 0", retain="objective 1")
RETAINS = ["retain", *(f"retain {i}" for i in range(2, 10))]
MANY = OrthogonalSteepestDescent(forget="forget", retain=RETAINS)
WITH_DRIFT = OrthogonalSteepestDescent(forget="forget", retain=RETAINS, drift="drift")

WELL_CONDITIONED = 1e-5
"""Smallest eigenvalue of the cosines for which the dense reference itself is accurate."""


def off_the_span(vector: Tensor, rows: Tensor) -> Tensor:
    """`vector` minus its projection onto the rows, by least squares on unit rows."""
    if len(rows) == 0:
        return vector
    unit = (rows / rows.norm(dim=-1, keepdim=True)).T
    return vector - unit @ torch.linalg.lstsq(unit, vector[:, None]).solution[:, 0]


def statistics_with_drift(jacobian: Tensor, drift: Tensor, names: tuple[str, ...]):
    rows = torch.cat([jacobian, torch.ones_like(drift)[None], drift[None]])
    return rows, StepStatistics(gramian=rows @ rows.T, names=names, auxiliary=("other", "drift"))


def test_several_gradients_to_forget_give_the_length_of_their_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale, opposed in itertools.product((1e-3, 1.0, 1e3), (False, True)):
        jacobian = scale * torch.randn(4, 6, generator=generator, dtype=torch.float64)
        if opposed:  # their sum is shorter than the longest of them
            jacobian[1], jacobian[2] = -0.9 * jacobian[0], 0.1 * jacobian[2]
        names = ("forget", "forget 2", "forget 3", "retain")
        weighting = OrthogonalSteepestDescent(forget=names[:3], retain="retain")
        statistics = StepStatistics(gramian=jacobian @ jacobian.T, names=names)
        direction = jacobian.T @ weighting(statistics).weights
        expected = off_the_span(jacobian[:3].sum(0), jacobian[3:])
        length = float(jacobian[:3].sum(0).norm())
        expected = expected * length / expected.norm()
        torch.testing.assert_close(direction, expected, rtol=0, atol=IDENTITY_TOL * length)


def test_it_is_the_projection_at_the_length_of_the_forget_gradient() -> None:
    seen = 0
    scales = (1e-30, 1.0, 1e30)
    for case in all_cases(ms=(2, 3, 5, 10), scales=scales, norm_ratios=(1.0, 1e4, 1e8)):
        if (case.norms == 0).any():
            continue
        unit = case.jacobian / case.norms[:, None]
        if float(torch.linalg.eigvalsh(unit @ unit.T)[0]) < WELL_CONDITIONED:
            continue
        seen += 1
        output = weigh(MANY, case.jacobian)
        direction = case.jacobian.T @ output.weights
        expected = off_the_span(unit[0], case.jacobian[1:])
        length = float(direction.norm())
        assert length == pytest.approx(float(case.norms[0]), rel=IDENTITY_TOL)
        assert float((direction / length - expected / expected.norm()).norm()) <= IDENTITY_TOL
        slopes = case.jacobian[1:] @ direction / case.norms[1:] / length
        assert float(slopes.abs().max()) <= IDENTITY_TOL
        assert int(output.result.status) == SolverStatus.CONVERGED
        assert float(output.result.gap) <= IDENTITY_TOL
    assert seen > 30


@pytest.mark.parametrize("guarantee", Guarantee, ids=lambda g: g.value)
def test_exactly_the_promises_for_a_pair_hold(guarantee: Guarantee) -> None:
    check_promise(PAIR, guarantee, PAIRS)


def test_dependent_retain_gradients_are_one_constraint() -> None:
    jacobian = torch.tensor(
        [[1.0, 2.0, 3.0], [0.0, 1.0, 0.0], [0.0, 5e-4, 0.0], [0.0, -2.0, 0.0]], dtype=torch.float64
    )
    output = weigh(MANY, jacobian)
    direction = jacobian.T @ output.weights
    expected = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64) * (14 / 10) ** 0.5
    assert torch.allclose(direction, expected, rtol=IDENTITY_TOL, atol=IDENTITY_TOL)
    assert int(output.result.status) == SolverStatus.CONVERGED


def test_retain_gradients_that_rounding_cannot_tell_apart_are_a_status() -> None:
    seen = 0
    for one in all_cases(ms=(3, 5, 10), norm_ratios=(1.0, 1e4), families=["near_parallel"]):
        result = weigh(MANY, one.jacobian).result
        direction = one.jacobian.T @ result.weights
        if int(result.status) == SolverStatus.RANK_DEFICIENT:
            seen += 1
            slopes = one.jacobian[1:] @ direction / one.norms[1:] / direction.norm()
            assert float(slopes.abs().max()) > IDENTITY_TOL
    assert seen > 0


@pytest.mark.parametrize("n", [1000, 100_000])
def test_retain_gradients_apart_by_float32_rounding_are_one_constraint(n: int) -> None:
    """What is left of g_j . d is that rounding: no ascent, and no violation of a promise."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        weight = torch.nn.Parameter(torch.zeros(n))
        retain = torch.randn(n, generator=generator)
        rows = {"forget": retain + torch.randn(n, generator=generator), "retain": retain}
        rows["retain 2"] = 0.37 * retain + 1e-7 * torch.randn(n, generator=generator)
        optimizer = moopt.CommonDescent(torch.optim.SGD([weight], lr=0.1), MANY)
        record = optimizer.backward({name: (weight * row).sum() for name, row in rows.items()})
        lengths = weight.grad.norm() * retain.norm()
        assert abs(float(weight.grad @ retain / lengths)) <= 1e-6
        assert record.descent
        if n == 100_000:  # long float32 rows: their inner products are rounded by as much
            assert record.status == SolverStatus.CONVERGED


def test_a_forget_gradient_in_the_span_is_infeasible() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 1e-6]], dtype=torch.float64)
    output = weigh(MANY, jacobian)
    assert output.weights.tolist() == [0.0, 0.0, 0.0]
    assert int(output.result.status) == SolverStatus.INFEASIBLE


def test_without_a_forget_gradient_the_retain_gradients_are_summed() -> None:
    jacobian = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1e-6]], dtype=torch.float64)
    assert weigh(MANY, jacobian).weights.tolist() == [0.0, 1.0, 1.0]
    masked = torch.tensor([False, True, True])
    assert weigh(MANY, jacobian + 1.0, active=masked).weights.tolist() == [0.0, 1.0, 1.0]
    assert int(weigh(MANY, jacobian).result.status) == SolverStatus.CONVERGED
    alone = weigh(MANY, jacobian[:1] + 2.0)
    assert alone.weights.tolist() == [1.0]
    assert int(alone.result.status) == SolverStatus.CONVERGED
    nothing = weigh(MANY, 0.0 * jacobian)
    assert nothing.weights.tolist() == [1 / 3] * 3
    assert int(nothing.result.status) == SolverStatus.DEGENERATE
    assert float(nothing.result.gap) == 0.0


def test_the_drift_is_one_more_constraint() -> None:
    generator = torch.Generator().manual_seed(3)
    jacobian = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    drift = 1e-3 * torch.randn(8, generator=generator, dtype=torch.float64)
    rows, statistics = statistics_with_drift(jacobian, drift, ("forget", "retain", "retain 2"))
    output = WITH_DRIFT(statistics)
    assert output.weights[3] == 0.0
    direction = rows.T @ output.weights
    expected = off_the_span(jacobian[0], torch.cat([jacobian[1:], drift[None]]))
    expected = expected * jacobian[0].norm() / expected.norm()
    assert torch.allclose(direction, expected, rtol=IDENTITY_TOL, atol=IDENTITY_TOL)


def test_recovery_removes_the_component_along_the_drift() -> None:
    generator = torch.Generator().manual_seed(4)
    jacobian = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    drift = 1e3 * torch.randn(8, generator=generator, dtype=torch.float64)
    rows, statistics = statistics_with_drift(jacobian, drift, ("retain", "retain 2"))
    direction = rows.T @ WITH_DRIFT(statistics).weights
    unit = drift / drift.norm()
    expected = jacobian.sum(0) - (jacobian.sum(0) @ unit) * unit
    assert torch.allclose(direction, expected, rtol=IDENTITY_TOL, atol=IDENTITY_TOL)


def test_the_drift_counts_whatever_objectives_are_masked() -> None:
    generator = torch.Generator().manual_seed(5)
    jacobian = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    drift = torch.randn(8, generator=generator, dtype=torch.float64)
    rows, statistics = statistics_with_drift(jacobian, drift, ("forget", "retain", "retain 2"))
    active = torch.tensor([True, False, True])
    output = WITH_DRIFT(dataclasses.replace(statistics, active=active))
    direction = rows.T @ output.weights
    expected = off_the_span(jacobian[0], torch.stack([jacobian[2], drift]))
    expected = expected * jacobian[0].norm() / expected.norm()
    assert output.weights[1] == 0.0
    assert torch.allclose(direction, expected, rtol=IDENTITY_TOL, atol=IDENTITY_TOL)


def test_a_zero_drift_changes_nothing_and_other_rows_are_not_read() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    _, statistics = statistics_with_drift(
        jacobian, torch.zeros(2, dtype=torch.float64), ("forget", "retain")
    )
    statistics.gramian[2] = statistics.gramian[:, 2] = float("nan")
    weights = WITH_DRIFT(statistics).weights
    plain = weigh(MANY, jacobian).weights
    assert torch.allclose(weights[:2], plain, rtol=IDENTITY_TOL)
    assert weights[2:].tolist() == [0.0, 0.0]


def test_a_drift_that_is_not_finite_is_a_status() -> None:
    jacobian = torch.eye(2, dtype=torch.float64)
    _, statistics = statistics_with_drift(
        jacobian, torch.full((2,), float("inf"), dtype=torch.float64), ("forget", "retain")
    )
    output = WITH_DRIFT(statistics)
    assert output.weights.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert int(output.result.status) == SolverStatus.NON_FINITE


def test_settings_out_of_range_name_the_remedy() -> None:
    assert OrthogonalSteepestDescent(forget="a", retain="b", rtol=0.0).rtol == 0.0
    with pytest.raises(ValueError, match="`rtol` of `OrthogonalSteepestDescent` must be in"):
        OrthogonalSteepestDescent(forget="a", retain="b", rtol=1.0)
    statistics = StepStatistics(gramian=torch.eye(2), names=("forget", "retain"))
    with pytest.raises(ValueError, match=r"must name an auxiliary row.*got 'drift'"):
        WITH_DRIFT(statistics)
