"""MGDA, DualProj and UPGrad give cvxpy's solution on every family, scale and norm ratio."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moopt.testing.directions import statistics
from moopt.weightings import MGDA, DualProj, UPGrad, Weighting
from tests.cases import Case, all_cases

CVXPY_TOL = 1e-5
"""Clarabel at 1e-12 on a square is good to 1e-6 in the vector; times ten for the conditions."""

CASES = [
    *all_cases(ms=(2, 3, 5), scales=(1e-30, 1.0, 1e30)),
    *all_cases(ms=(2, 3, 5), norm_ratios=(1e2, 1e4, 1e8)),
]


def solve(cvxpy, vector, square, constraints) -> Tensor:
    tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
    problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(square)), constraints)
    problem.solve(solver=cvxpy.CLARABEL, **tolerances)
    return torch.from_numpy(vector.value)


def unit_rows(one: Case) -> Tensor:
    return one.jacobian / torch.where(one.norms > 0, one.norms, 1.0)[:, None]


def direction(weighting: Weighting, one: Case) -> Tensor:
    return one.jacobian.T @ weighting(statistics(one.gramian)).weights


def projected(cvxpy, units: Tensor, target: Tensor) -> Tensor:
    """Onto the dual cone, for a target of unit length: no scale is left in the problem."""
    length = target.norm()
    if length == 0:
        return target
    d = cvxpy.Variable(len(target))
    return length * solve(cvxpy, d, d - (target / length).numpy(), [units.numpy() @ d >= 0])


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("name", ["DualProj", "UPGrad"])
def test_projections_onto_the_dual_cone(name: str) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    for one in CASES:
        units, m = unit_rows(one), one.m
        if name == "DualProj":
            ours, expected = (
                direction(DualProj(), one),
                projected(cvxpy, units, one.jacobian.mean(0)),
            )
        else:
            ours = direction(UPGrad(), one)
            expected = sum(projected(cvxpy, units, row) for row in one.jacobian) / m
        assert float((ours - expected).norm()) <= CVXPY_TOL * float(one.norms.max()), one


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_the_minimum_norm_point() -> None:
    """In v_i = w_i ||g_i||, with the smallest gradient as the unit of length."""
    cvxpy = pytest.importorskip("cvxpy")
    for one in CASES:
        smallest = one.norms.min()
        ours = direction(MGDA(), one)
        if smallest == 0:
            assert not ours.any()
            continue
        v = cvxpy.Variable(one.m)
        units, shares = unit_rows(one), (smallest / one.norms).numpy()
        found = solve(cvxpy, v, units.numpy().T @ v, [v >= 0, shares @ v == 1])
        expected = smallest * (units.T @ found)
        assert float((ours - expected).norm()) <= CVXPY_TOL * float(smallest), one
