"""Fits find the exponent that was planted, and goals are judged by it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.growth import TOLERANCE, Fit, Growth, fit, judge
from benchmarks.report import Report

SIZES = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


@settings(max_examples=25, deadline=None)
@given(
    exponent=st.floats(0.5, 3.5),
    factor=st.floats(1e-9, 1.0),
    share=st.floats(0.0, 1.0),
    noise=st.lists(st.floats(-0.02, 0.02), min_size=len(SIZES), max_size=len(SIZES)),
)
def test_a_planted_exponent_is_found(
    exponent: float, factor: float, share: float, noise: list[float]
) -> None:
    constant = share * factor * SIZES[0] ** exponent
    exact = [constant + factor * size**exponent for size in SIZES]
    found = fit(SIZES, exact)
    assert found.exponent == pytest.approx(exponent, abs=0.02)
    assert found.residual <= 0.01
    measured = fit(SIZES, [t * (1 + e) for t, e in zip(exact, noise, strict=True)])
    assert measured.exponent == pytest.approx(exponent, abs=0.12)
    assert measured.residual <= 0.03


def test_a_residual_tells_that_no_power_fits() -> None:
    steps = [1.0, 1.0, 1.0, 10.0, 10.0, 10.0]
    assert fit(SIZES, steps).residual > 0.2


@pytest.mark.parametrize(("sizes", "seconds"), [([1, 2, 3], [1, 1, 1]), (SIZES, [0.0] * 6)])
def test_what_cannot_be_fitted_is_refused(sizes: list[float], seconds: list[float]) -> None:
    with pytest.raises(ValueError, match="four positive points"):
        fit(sizes, seconds)


@pytest.mark.parametrize(
    ("exponent", "low", "high", "met"),
    [
        (1.0, 0.9, 1.1, True),
        (1.3, 0.9, 1.1, False),
        (0.7, 0.9, 1.1, False),
        (2.5, -math.inf, 3.0, True),
        (3.2, -math.inf, 3.0, False),
    ],
)
def test_a_goal_is_judged(
    exponent: float, low: float, high: float, met: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("growth", "claim")
    growth = Growth("planted", "m", {}, low, high)
    seconds = {int(size): 1e-6 * size**exponent for size in SIZES}
    assert judge(report, growth, seconds) is met
    assert ("MISSED" in capsys.readouterr().out) is not met
    found = report.results["planted in m"]
    assert found["met"] is met
    assert Fit(**found["fit"]).exponent == pytest.approx(exponent, abs=0.01)
    assert TOLERANCE < 0.1
