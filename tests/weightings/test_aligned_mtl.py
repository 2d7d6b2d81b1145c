"""AlignedMTL: equal singular values of the aligned gradients, scale modes, rank, preference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import MGDA, AlignedMTL, ConFIG, Mean
from tests.cases import Case, case, cases

INDEPENDENT = ("aligned", "conflicting", "orthogonal", "near_opposite")

MODES = ("min", "median", "rmse")

ALIGNED_TOL = 1e-6
"""Relative spread of the singular values of the aligned gradients: as other directions from a
Gramian whose unit gradients have condition number up to 1e4 (near_opposite)."""

PEER_TOL = 1e-8
"""Relative difference from TorchJD on well-scaled rows; the issue asks for 1e-6."""


def weigh(one: Case, **settings_) -> Tensor:
    return AlignedMTL(**settings_)(StepStatistics(gramian=one.gramian)).weights


def balance(one: Case, **settings_) -> Tensor:
    """The map from preferences to weights, column by column, by hand."""
    unit = torch.eye(one.m).tolist()
    return torch.stack([weigh(one, preference=row, **settings_) for row in unit], -1)


def check_identity(one: Case, matrix: Tensor, mode: str) -> None:
    """The rows of B J are orthogonal and equally long, and B is symmetric positive definite."""
    aligned = matrix @ one.jacobian
    singular = torch.linalg.svdvals(one.jacobian / one.norms.max())
    scale = {
        "min": singular[-1],
        "median": singular.sort().values[(one.m - 1) // 2],
        "rmse": singular.square().mean().sqrt(),
    }[mode] * one.norms.max()
    gramian = aligned @ aligned.T / scale**2
    assert float((gramian - torch.eye(one.m)).abs().max()) <= ALIGNED_TOL
    assert float((matrix - matrix.T).abs().max()) <= ALIGNED_TOL * float(matrix.abs().max())
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=25)
@given(one=cases(INDEPENDENT, norm_ratios=(1.0, 1e2, 1e4), ms=(1, 2, 3, 5)))
def test_the_aligned_gradients_are_orthogonal_and_equally_long(mode: str, one: Case) -> None:
    matrix = balance(one, scale_mode=mode)
    check_identity(one, matrix, mode)
    uniform = torch.full((one.m,), 1.0 / one.m, dtype=torch.float64)
    assert torch.allclose(matrix @ uniform, weigh(one, scale_mode=mode), rtol=1e-9, atol=0)


def test_another_scale_or_method_fails_the_identity() -> None:
    one = case("conflicting", 3, norm_ratio=1e2)
    for mode in MODES:
        other = MODES[(MODES.index(mode) + 1) % 3]
        with pytest.raises(AssertionError):
            check_identity(one, balance(one, scale_mode=other), mode)
    for method in (Mean(), MGDA(), ConFIG()):
        weights = method(StepStatistics(gramian=one.gramian)).weights
        assert not torch.allclose(weights, weigh(one), rtol=1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["aligned", "conflicting", "rank_deficient", "duplicate"])
def test_agrees_with_torchjd(mode: str, family: str) -> None:
    peer = pytest.importorskip("torchjd.aggregation")
    for m in (3, 4, 5, 10):
        one = case(family, m, norm_ratio=4.0)
        expected = peer.AlignedMTL(scale_mode=mode)(one.jacobian)
        difference = one.jacobian.T @ weigh(one, scale_mode=mode) - expected
        assert float(difference.norm()) <= PEER_TOL * float(expected.norm())
        pref = torch.linspace(0.0, 2.0, m, dtype=torch.float64)
        expected = peer.AlignedMTL(pref_vector=pref, scale_mode=mode)(one.jacobian)
        ours = weigh(one, scale_mode=mode, preference=pref.tolist())
        assert float((one.jacobian.T @ ours - expected).norm()) <= PEER_TOL * float(expected.norm())


def test_the_smallest_eigenvalue_is_the_smallest_non_zero_one() -> None:
    """METHODS.md: dependent rows have a zero eigenvalue, which would stop the training."""
    one = case("duplicate", 3)
    assert float(torch.linalg.eigvalsh(one.gramian)[0].abs()) < 1e-15
    direction = one.jacobian.T @ weigh(one)
    assert float(direction.norm()) > 0.1


def test_a_small_gradient_is_not_cut_off() -> None:
    """At a norm ratio of 1e8 the eigenvalue of G is 1e-16 of the largest: rounding for eigh."""
    rows = torch.tensor([[1e-8, 0.0], [0.0, 1.0]], dtype=torch.float64)
    weights = AlignedMTL()(StepStatistics(gramian=rows @ rows.T)).weights
    assert torch.allclose(rows.T @ weights, torch.tensor([5e-9, 5e-9], dtype=torch.float64))
    peer = pytest.importorskip("torchjd.aggregation").AlignedMTL()(rows)
    assert float(peer[0].abs()) < 1e-12 < 0.4 < float(peer[1])  # it dropped the first objective


def test_preferences_by_name_and_their_errors() -> None:
    one = case("conflicting", 3)
    names = ("forget", "retain", "kl")
    statistics = StepStatistics(gramian=one.gramian, names=names)
    named = AlignedMTL(preference={"kl": 3.0, "forget": 1.0, "retain": 2.0})
    assert named.needs == {"names"}
    assert torch.equal(named(statistics).weights, weigh(one, preference=[1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="`preference` of `AlignedMTL`"):
        AlignedMTL(preference=[1.0, -1.0])
    with pytest.raises(ValueError, match="`preference` of `AlignedMTL`"):
        AlignedMTL(preference=[1.0, 2.0])(statistics)


def test_all_zero_gradients_leave_the_preference() -> None:
    zeros = StepStatistics(gramian=torch.zeros(3, 3, dtype=torch.float64))
    assert AlignedMTL()(zeros).weights.tolist() == pytest.approx([1 / 3] * 3)


def test_wrong_settings_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="`scale_mode` of `AlignedMTL` must be one of"):
        AlignedMTL(scale_mode="mean")
    with pytest.raises(ValueError, match="`rtol` of `AlignedMTL`"):
        AlignedMTL(rtol=1.0)
