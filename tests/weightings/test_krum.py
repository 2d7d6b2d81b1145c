"""Krum: the scores on the gradients themselves, resilience, ties and errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import Krum, Mean
from tests.cases import Case, case, cases

GENERIC = ("aligned", "conflicting", "crowded")
"""Families whose scores do not tie beyond pairs of nearest neighbours."""

SCORE_TOL = 1e-12
"""Relative to the squared norms: rounding of a sum of squared distances from the Gramian."""


def scores(rows: Tensor, num_byzantine: int) -> Tensor:
    """The paper's scores: squared distances to the nearest others, on the gradients themselves."""
    squared = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = squared.sort(dim=-1).values[:, 1:]
    return nearest[:, : max(len(rows) - num_byzantine - 2, 1)].sum(-1)


def check_identity(one: Case, weights: Tensor, num_byzantine: int, num_selected: int) -> None:
    """Equal weights on gradients none of which scores worse than one that was left out."""
    chosen = weights > 0
    assert int(chosen.sum()) == min(num_selected, one.m)
    assert torch.allclose(weights[chosen], weights[chosen][0])
    assert float(weights.sum()) == pytest.approx(1.0)
    if chosen.all():
        return
    values = scores(one.jacobian, num_byzantine)
    slack = SCORE_TOL * float(one.norms.square().max()) * one.m
    assert float(values[chosen].max()) <= float(values[~chosen].min()) + slack


@pytest.mark.parametrize(("f", "selected"), [(0, 1), (0, 3), (1, 1), (1, 2)])
@settings(deadline=None, max_examples=30)
@given(one=cases(ms=(5, 10), scales=(1.0, 1e-8), norm_ratios=(1.0, 1e2)))
def test_selects_the_smallest_scores(f: int, selected: int, one: Case) -> None:
    weighting = Krum(num_byzantine=f, num_selected=selected)
    weights = weighting(StepStatistics(gramian=one.gramian)).weights
    check_identity(one, weights, f, selected)


def test_the_mean_and_the_worst_fail_the_identity() -> None:
    one = case("conflicting", 5, norm_ratio=1e2)
    with pytest.raises(AssertionError):
        check_identity(one, Mean()(StepStatistics(gramian=one.gramian)).weights, 0, 1)
    worst = torch.nn.functional.one_hot(scores(one.jacobian, 0).argmax(), 5).double()
    with pytest.raises(AssertionError):
        check_identity(one, worst, 0, 1)


def test_arbitrary_gradients_are_left_out() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.ones(9, 6) + 0.1 * torch.randn(9, 6, generator=generator)
        rows[[1, 4, 7]] = 1e3 * torch.randn(3, 6, generator=generator)
        gramian = (rows @ rows.T).double()
        for selected in (1, 6):
            weighting = Krum(num_byzantine=3, num_selected=selected)
            weights = weighting(StepStatistics(gramian=gramian)).weights
            assert (weights[[1, 4, 7]] == 0).all()


def plain_distances(rows: Tensor, f: int) -> int:
    distances = torch.cdist(rows, rows).sort(dim=-1).values[:, 1 : len(rows) - f - 1]
    return int(distances.sum(-1).argmin())


def test_agrees_with_torchjd_up_to_its_distances() -> None:
    """TorchJD sums distances, the paper their squares: where both choose alike, so do we."""
    peer = pytest.importorskip("torchjd.aggregation").Krum(n_byzantine=1)
    agreed = differed = 0
    for seed in range(60):
        one = case(GENERIC[seed % 3], 6, seed, norm_ratio=4.0)
        expected = peer(one.jacobian)
        ours = one.jacobian.T @ Krum(num_byzantine=1)(StepStatistics(gramian=one.gramian)).weights
        by_squares = int(scores(one.jacobian, 1).argmin())
        if by_squares == plain_distances(one.jacobian, 1):
            agreed += 1
            assert float((ours - expected).norm()) <= 1e-9 * float(expected.norm())
        else:
            differed += 1
            assert torch.allclose(ours, one.jacobian[by_squares])
            assert torch.allclose(expected, one.jacobian[plain_distances(one.jacobian, 1)])
    assert agreed >= 30
    assert differed >= 1


def test_ties_go_to_the_first_whatever_the_scale() -> None:
    """Orthonormal gradients tie up to rounding, which a factor of three changes."""
    rows = case("orthogonal", 5).jacobian
    for factor in (1.0, 3.0, 1e-20, 7e11):
        scaled = rows * factor
        weights = Krum()(StepStatistics(gramian=scaled @ scaled.T)).weights
        assert weights.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_fewer_active_objectives_than_selected() -> None:
    gramian = case("aligned", 4).gramian
    active = torch.tensor([True, False, True, False])
    weights = Krum(num_selected=3)(StepStatistics(gramian=gramian, active=active)).weights
    assert weights.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_errors_name_the_rule_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="`num_byzantine` of `Krum` must be an integer"):
        Krum(num_byzantine=-1)
    with pytest.raises(ValueError, match="`num_selected` of `Krum` must be an integer"):
        Krum(num_selected=0)
    with pytest.raises(ValueError, match=r"needs at least 5 objectives; got 4\. Lower it to 0"):
        Krum(num_byzantine=1)(StepStatistics(gramian=torch.eye(4)))
