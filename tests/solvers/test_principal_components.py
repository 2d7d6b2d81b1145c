"""principal_components: exact on small gradients, the rank from the cosines."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import moopt.solvers.principal_components as module
from moopt.solvers.principal_components import principal_components
from tests.cases import Case, all_cases, case, cases

INDEPENDENT = ("aligned", "conflicting", "orthogonal", "near_opposite")

RELATIVE_TOL = 1e-8
"""Of each singular value: eps times the condition number 1e2 to 1e4 of the unit gradients, squared
in the Gramian."""

ORTHOGONAL_TOL = 1e-12
"""Rounding of an inner product of two columns after some hundred rotations."""


ROUNDING = 1e-13
"""Of sigma^2 relative to the largest: m eps, times 50."""


def relative(one: Case) -> tuple[Tensor, Tensor]:
    norms = one.norms
    live = norms > 0
    safe = torch.where(live, norms, 1.0)
    cosines = torch.where(live[:, None] & live, one.gramian / safe[:, None] / safe, 0.0)
    return cosines, norms / norms.max().clamp_min(1e-300)


class Parts(NamedTuple):
    singular_values: Tensor
    vectors: Tensor

    @property
    def rank(self) -> int:
        return len(self.singular_values)


def parts_of(one: Case) -> Parts:
    cosines, norms = relative(one)
    solved = principal_components(cosines.numpy(), norms.numpy())
    return Parts(*(torch.from_numpy(np.ascontiguousarray(array)) for array in solved))


def one_sided_oracle(one: Case) -> Tensor:
    """Singular values by one-sided Jacobi in plain Python, rows of falling norm."""
    rows = sorted((one.jacobian / one.norms.max()).tolist(), key=lambda r: -sum(x * x for x in r))
    for _ in range(60):
        worst = 0.0
        for p in range(len(rows)):
            for q in range(p + 1, len(rows)):
                a = sum(x * x for x in rows[p])
                b = sum(x * x for x in rows[q])
                c = sum(x * y for x, y in zip(rows[p], rows[q], strict=True))
                worst = max(worst, abs(c) / math.sqrt(a * b))
                if c == 0.0:
                    continue
                zeta = (b - a) / (2 * c)
                t = math.copysign(1.0, zeta) / (abs(zeta) + math.hypot(1.0, zeta))
                k = 1 / math.hypot(1.0, t)
                rows[p], rows[q] = (
                    [k * (x - t * y) for x, y in zip(rows[p], rows[q], strict=True)],
                    [k * (t * x + y) for x, y in zip(rows[p], rows[q], strict=True)],
                )
        if worst < 1e-15:
            break
    lengths = sorted((math.sqrt(sum(x * x for x in r)) for r in rows), reverse=True)
    return torch.tensor(lengths, dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(one=cases(INDEPENDENT, ms=(1, 2, 3, 5)))
def test_every_singular_value_is_accurate_relative_to_itself(one: Case) -> None:
    parts = parts_of(one)
    expected = one_sided_oracle(one)
    assert int(parts.rank) == one.m
    error = (parts.singular_values - expected).abs() / expected
    assert float(error.max()) <= RELATIVE_TOL
    identity = torch.eye(one.m, dtype=torch.float64)
    assert float((parts.vectors.mT @ parts.vectors - identity).abs().max()) <= ORTHOGONAL_TOL


def test_an_eigenvalue_solver_on_the_gramian_loses_the_small_ones() -> None:
    worst = {"eigh of G": 0.0, "ours": 0.0}
    for seed in range(10):
        one = case("conflicting", 5, seed, norm_ratio=1e8)
        expected = one_sided_oracle(one)
        scaled = one.gramian / one.norms.max() ** 2
        naive = torch.linalg.eigvalsh(scaled).flip(0).clamp_min(0.0).sqrt()
        for name, values in (("eigh of G", naive), ("ours", parts_of(one).singular_values)):
            error = float(((values - expected).abs() / expected).max())
            worst[name] = max(worst[name], error)
    assert worst["eigh of G"] > 1e-2
    assert worst["ours"] <= RELATIVE_TOL


def test_the_rank_is_that_of_the_unit_gradients() -> None:
    ranks = {"all_equal": 1, "duplicate": 4, "zero_row": 4, "several_zero_rows": 3}
    for family, rank in ranks.items():
        for ratio in (1.0, 1e8):
            parts = parts_of(case(family, 5, norm_ratio=ratio))
            assert int(parts.rank) == rank
            assert parts.vectors.shape == (5, rank)
    assert int(parts_of(case("rank_deficient", 5)).rank) == 3
    sigma, vectors = principal_components(np.zeros((3, 3)), np.ones(3))
    assert len(sigma) == 0
    assert vectors.shape == (3, 0)


def test_rotations_and_lapack_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in all_cases(ms=(1, 2, 3, 5, 10), norm_ratios=(1.0, 1e4, 1e8)):
        plain = parts_of(one)
        with monkeypatch.context() as patch:
            patch.setattr(module, "GRADED", math.inf)
            rotated = parts_of(one)
        assert plain.rank == rotated.rank, one
        largest = plain.singular_values[:1]
        difference = (plain.singular_values - rotated.singular_values).abs()
        # What the rounding of the cosines, 1e-15 in sigma^2, leaves of a small singular value.
        resolved = torch.maximum(plain.singular_values, 1e-6 * largest)
        assert (difference * resolved <= ROUNDING * largest**2).all(), one
        for parts in (plain, rotated):
            # V V' G = G on the span, and V' G V is diagonal
            scaled = parts.vectors * parts.singular_values
            cosines, norms = relative(one)
            gramian = cosines * norms[:, None] * norms
            assert float((scaled @ scaled.mT - gramian).abs().max()) <= 1e-11
            assert (parts.singular_values > 0).all()
            assert (parts.singular_values.diff() <= 0).all()


def test_noise_is_a_floor_of_the_cut_off() -> None:
    """Float32 rows a, b and a + b are dependent for all that their cosines tell."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        rows = torch.randn(3, 40, generator=generator)
        rows[2] = rows[0] + rows[1]
        norms = rows.norm(dim=-1)
        cosines = ((rows @ rows.T) / norms / norms[:, None]).double().numpy()
        noise = torch.finfo(torch.float32).eps
        sigma, _ = principal_components(cosines, norms.double().numpy(), noise=noise)
        assert len(sigma) == 2
