"""rescale: lengths by every model, for every kind and dtype, direction unchanged."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt.projection import rescale, rescale_
from tests.cases import Case, case
from tests.projection.gradients import KINDS, ROUNDING, every_case, flat, gradients_of


def wanted(one: Case, length: str | float) -> float:
    norms = one.norms[1:]
    if length == "mean_norm":
        return float(norms.mean())
    if length == "largest":
        return float(norms.max())
    if length == "mean_gradient":
        return float(one.jacobian[1:].mean(0).norm())
    return float(length)


@settings(deadline=None, max_examples=100)
@given(
    one=every_case(ms=(2, 3, 5)),
    kind=st.sampled_from(KINDS),
    length=st.sampled_from(["mean_norm", "largest", "mean_gradient", 2.5]),
)
def test_length_and_direction(one: Case, kind: str, length: str | float) -> None:
    first, *others = gradients_of(one, kind)
    result = flat(rescale(first, *others, length=length))
    assert torch.equal(flat(first), one.jacobian[0])
    if one.norms[0] == 0:
        assert not result.any()
        return
    target = wanted(one, length)
    # The mean gradient is judged beside its terms: opposite gradients leave rounding of it.
    slack = ROUNDING[one.dtype] * max(target, float(one.norms[1:].mean()))
    expected = one.jacobian[0] / one.norms[0] * target
    assert float((result - expected).norm()) <= 4 * slack + 1e-7 * float(one.norms[1:].mean()) * (
        length == "mean_gradient"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_and_keep(kind: str) -> None:
    first, *others = gradients_of(case("conflicting", 3), kind)
    before = flat(first)
    assert rescale_(first, *others, length="keep") is first
    assert torch.equal(flat(first), before)
    assert rescale_(first, *others, length="largest") is first
    assert float(flat(first).norm()) == pytest.approx(1.0)


def test_overflow_stays_visible() -> None:
    assert not torch.isfinite(rescale(torch.ones(2), torch.tensor([float("inf"), 0.0]))).all()


def test_errors_name_the_rule_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        rescale(torch.ones(2), length="median")
    with pytest.raises(ValueError, match="must have gradients to measure"):
        rescale(torch.ones(2), length="largest")
    with pytest.raises(ValueError, match="must be finite and >= 0"):
        rescale(torch.ones(2), length=-1.0)
