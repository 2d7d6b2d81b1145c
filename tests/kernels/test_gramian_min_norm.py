"""A step's numbers from tensors alone are those of the host, whatever the Gramian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moopt.kernels.gramian_min_norm import (
    gramian_min_norm,
    kept_numbers,
    size_of,
    unpacked,
    weigh_reference,
)
from moopt.kernels.min_norm import min_norm_reference
from moopt.records.device_point import DevicePoint
from moopt.step.weigh import Weighed, weigh
from moopt.weightings import MGDA, DualProj, UPGrad, Weighting
from moopt.weightings.cleared import Step

METHODS: dict[DevicePoint, Weighting] = {
    DevicePoint.HULL: MGDA(),
    DevicePoint.UNIT_HULL: MGDA(normalize="l2"),
    DevicePoint.CONE_OF_EACH: UPGrad(),
    DevicePoint.CONE_OF_SUM: DualProj(),
}
HOST = torch.device("cpu")
EPS = 1.2e-7
INACTIVE_TOL = 1e-5


@st.composite
def jacobians(draw: st.DrawFn) -> np.ndarray:
    """Rows of every kind of trouble."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m = draw(st.integers(1, 10))
    rows = rng.standard_normal((m, draw(st.integers(1, 12))))
    trouble = draw(st.sampled_from(["none", "zero", "opposite", "noise", "all zero", "nan", "inf"]))
    rows *= 10.0 ** rng.uniform(-1, 1, (m, 1)) ** draw(st.sampled_from([0, 1, 9]))
    rows *= 10.0 ** draw(st.integers(-30, 30))
    if trouble == "zero":
        rows[0] = 0.0
    elif trouble == "opposite" and m > 1:
        rows[1] = -rows[0]
    elif trouble == "noise":
        rows[-1] *= 1e-7
    elif trouble == "all zero":
        rows[:] = 0.0
    elif trouble in ("nan", "inf"):
        rows[0, 0] = float(trouble)
    return rows


def on_host(rows: np.ndarray, losses: np.ndarray, point: DevicePoint) -> Weighed:
    with np.errstate(all="ignore"):
        step = Step(gramian=rows @ rows.T, active=np.ones(len(rows), dtype=bool), losses=losses)
    finite = bool(np.isfinite(losses).all())
    method, tol = METHODS[point], INACTIVE_TOL
    return weigh(method, step, {}, inactive_tol=tol, eps=EPS, finite_losses=finite)


def disagreement(rows, losses, point, found: torch.Tensor) -> str:
    """What differs from the host beyond rounding; nothing if nothing does."""
    expected, numbers = on_host(rows, losses, point), unpacked(found, len(rows))
    if int(numbers.status) != int(expected.status):
        return "status"
    if (bool(numbers.descent), bool(numbers.fell_back)) != (expected.descent, expected.fell_back):
        return "certificate"
    if (numbers.active.numpy() > 0).tolist() != expected.active.tolist():
        return "active"
    known = math.isnan(expected.stationarity), math.isnan(float(numbers.stationarity))
    if known[0] != known[1] or abs(expected.stationarity - float(numbers.stationarity)) > 1e-7:
        return "stationarity"
    ours, theirs = numbers.weights.numpy(), expected.weights
    if not np.isfinite(rows).all():
        return "" if ours.tolist() == theirs.tolist() else "weights"
    lengths = np.linalg.norm(rows, axis=1)
    apart = np.linalg.norm(rows.T @ ours - rows.T @ theirs)
    return "" if apart <= 1e-7 * (np.abs(theirs) @ lengths) else "weights"


@given(rows=jacobians(), point=st.sampled_from(DevicePoint), seed=st.integers(0, 99))
def test_it_is_what_the_host_weighs(rows: np.ndarray, point: DevicePoint, seed: int) -> None:
    losses = np.abs(np.random.default_rng(seed).standard_normal(len(rows)))
    losses[0] = (1.0, math.inf, math.nan)[min(seed % 20, 2)] if seed % 20 in (1, 2) else losses[0]
    with np.errstate(all="ignore"):
        gramian = torch.from_numpy(rows @ rows.T)
    kept = kept_numbers(len(rows), HOST)
    settings = {"point": point, "inactive_tol": INACTIVE_TOL, "eps": EPS}
    found = weigh_reference(gramian, torch.from_numpy(losses), kept, **settings)
    assert found.shape == (size_of(len(rows)),)
    assert disagreement(rows, losses, point, found) == ""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"point": DevicePoint.UNIT_HULL}, "weights"),
        ({"inactive_tol": 0.5}, "active"),
        ({"eps": 1.0}, "status"),
        ({"losses": math.inf}, "status"),
    ],
)
def test_the_comparison_sees_what_is_wrong(wrong: dict, told: str) -> None:
    rows, losses = np.array([[1.0, 0.3], [0.2, 0.4]]), np.array([1.0, 70.0])
    settings = {"point": DevicePoint.HULL, "inactive_tol": INACTIVE_TOL, "eps": EPS} | wrong
    given_losses = torch.from_numpy(losses * settings.pop("losses", 1.0))
    kept = kept_numbers(2, HOST)
    found = weigh_reference(torch.from_numpy(rows @ rows.T), given_losses, kept, **settings)
    assert disagreement(rows, losses, DevicePoint.HULL, found) == told


def test_a_scale_is_taken_out_and_an_unknown_loss_is_no_trouble() -> None:
    rows = [[torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 1.0])]]
    losses = torch.tensor([math.nan, 1.0], dtype=torch.float64)
    kept = kept_numbers(2, HOST)
    known = {"point": DevicePoint.UNIT_HULL, "known": [False, True]}
    scaled = [[8.0 * g for g in row] for row in rows]
    plain = gramian_min_norm(rows, losses, kept, **known)
    scaled = gramian_min_norm(scaled, losses, kept, scale=torch.tensor(8.0), **known)
    torch.testing.assert_close(scaled[:-1], plain[:-1], equal_nan=True)
    assert bool(unpacked(plain, 2).descent)
    spoiled = gramian_min_norm(rows, losses, kept, point=DevicePoint.UNIT_HULL)
    assert not bool(unpacked(spoiled, 2).descent)
    assert float(unpacked(spoiled, 2).steps) == 3.0


def test_several_zero_rows_share_the_weight_to_the_last_bit() -> None:
    weights = min_norm_reference(torch.zeros(3, 3, dtype=torch.float64))[0]
    assert weights.tolist() == [1 / 3] * 3


def test_a_point_that_raises_an_objective_is_replaced_and_counted() -> None:
    """One pivot takes the shortest row alone, which raises the third; of unit rows the first."""
    rows = torch.tensor([[10.0, 0.1, 10.0], [0.0, 0.1, 0.0], [1.0, -1.0, 1.0]]).double()
    losses, kept = torch.ones(3, dtype=torch.float64), kept_numbers(3, HOST)
    settings = {"point": DevicePoint.HULL, "eps": EPS}
    for count in (1, 2):
        out = unpacked(weigh_reference(rows @ rows.T, losses, kept, max_iter=1, **settings), 3)
        assert (bool(out.descent), bool(out.fell_back), int(out.fallbacks)) == (True, True, count)
        assert out.weights.count_nonzero() == 1
        assert bool((rows @ (out.weights @ rows) > 0.0).all())
    out = unpacked(weigh_reference(rows @ rows.T, losses, kept, **settings), 3)
    assert (bool(out.descent), bool(out.fell_back), int(out.fallbacks)) == (True, False, 2)
