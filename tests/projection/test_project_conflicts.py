"""project_conflicts against a dense loop, A-GEM's and GRU's identities, and the clip."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.projection import project_conflicts, project_conflicts_, project_out
from tests.cases import Case, case
from tests.projection.gradients import KINDS, ROUNDING, every_case, flat, gradients_of


def dense(rows: Tensor, clip: float | None = None) -> Tensor:
    """The definition, in float64, one row after the other."""
    vector = rows[0]
    for other in rows[1:]:
        length = float(other.norm())
        if length == 0:
            continue
        unit = other / length
        component = min(0.0, float(vector @ unit))
        if clip is not None:
            component = max(component, clip * float(vector.norm()))
        vector = vector - component * unit
    return vector


def check_project_conflicts(project: Callable[..., Tensor], one: Case, kind: str) -> None:
    first, *others = gradients_of(one, kind)
    result = flat(project(first, *others))
    assert torch.equal(flat(first), one.jacobian[0])
    slack = ROUNDING[one.dtype] * one.m * float(one.norms[0])
    assert float((result - dense(one.jacobian)).norm()) <= slack
    if one.m == 2:
        assert float(result @ one.jacobian[1]) >= -slack * float(one.norms[1])


@settings(deadline=None, max_examples=150)
@given(one=every_case(), kind=st.sampled_from(KINDS))
def test_it_follows_the_definition(one: Case, kind: str) -> None:
    check_project_conflicts(project_conflicts, one, kind)


@pytest.mark.parametrize(
    ("project", "one"),
    [
        (project_out, case("aligned", 2)),  # projects without a conflict
        (lambda g, *others: g, case("conflicting", 2)),  # never projects
    ],
    ids=["always", "never"],
)
def test_planted_violators_fail(project: Callable[..., Tensor], one: Case) -> None:
    with pytest.raises(AssertionError):
        check_project_conflicts(project, one, "tensor")


@settings(deadline=None, max_examples=50)
@given(one=every_case(), kind=st.sampled_from(KINDS), clip=st.sampled_from([-1.0, -0.5, 0.0]))
def test_the_clip_bounds_each_correction(one: Case, kind: str, clip: float) -> None:
    first, *others = gradients_of(one, kind)
    result = flat(project_conflicts(first, *others, cosine_clip=clip))
    slack = ROUNDING[one.dtype] * one.m * float(one.norms[0])
    assert float((result - dense(one.jacobian, clip)).norm()) <= slack
    if clip == 0.0:
        assert torch.equal(result, one.jacobian[0])


def test_without_a_conflict_every_bit_stays() -> None:
    one = case("aligned", 5, dtype=torch.float32)
    first, *others = gradients_of(one, "list")
    assert torch.equal(flat(project_conflicts(first, *others)), one.jacobian[0])


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_returns_the_same_object(kind: str) -> None:
    first, *others = gradients_of(case("conflicting", 3), kind)
    expected = flat(project_conflicts(first, *others))
    assert project_conflicts_(first, *others) is first
    assert torch.equal(flat(first), expected)


def test_the_order_matters_as_in_the_paper() -> None:
    one = case("crowded", 5)
    first, *others = gradients_of(one, "tensor")
    there = project_conflicts(first, *others)
    back = project_conflicts(first, *reversed(others))
    assert float((there - back).norm()) > 1e-3 * float(one.norms[0])


def test_a_clip_out_of_range_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="`cosine_clip` of `project_conflicts_` must be in"):
        project_conflicts(torch.ones(2), torch.ones(2), cosine_clip=0.5)
