"""project_out and project_onto_span against dense QR, at every kind, dtype, scale and ratio."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt.projection import (
    project_onto_span,
    project_onto_span_,
    project_out,
    project_out_,
)
from tests.cases import Case, all_cases, case
from tests.projection.gradients import (
    CONDITION,
    KINDS,
    ROUNDING,
    condition_of,
    every_case,
    flat,
    gradients_of,
    off_the_span,
)

Project = Callable[..., torch.Tensor]


def check_project_out(project: Project, one: Case, kind: str) -> None:
    """Orthogonal to every other, equal to the reference, idempotent; the input is unchanged."""
    first, *others = gradients_of(one, kind)
    condition = condition_of(one.jacobian[1:])
    if condition > CONDITION:
        return
    before = [flat(g) for g in (first, *others)]
    result = project(first, *others)
    assert all(torch.equal(flat(g), b) for g, b in zip((first, *others), before, strict=True))
    vector, length = flat(result), float(one.norms[0])
    tol = ROUNDING[one.dtype] * condition
    reference = off_the_span(one.jacobian[0], one.jacobian[1:])
    assert float((vector - reference).norm()) <= tol * length
    slopes = (one.jacobian[1:] @ vector).abs() / one.norms[1:].clamp_min(1e-300)
    assert bool((slopes <= tol * length).all())
    again = flat(project(result, *others))
    assert float((again - vector).norm()) <= tol * length


@settings(deadline=None, max_examples=150)
@given(one=every_case(), kind=st.sampled_from(KINDS))
def test_it_is_the_orthogonal_projection(one: Case, kind: str) -> None:
    check_project_out(project_out, one, kind)


def one_after_the_other(gradient: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """A planted violator: exact for orthogonal others only."""
    for other in others:
        if other.any():
            gradient = gradient - (gradient @ other) / (other @ other) * other
    return gradient


def absolute_ridge(gradient: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """A planted violator: an absolute constant in the denominator."""
    for other in others:
        gradient = gradient - (gradient @ other) / (other @ other + 1e-12) * other
    return gradient


@pytest.mark.parametrize(
    ("project", "examples"),
    [
        (one_after_the_other, [case("aligned", 3)]),
        (absolute_ridge, [case("aligned", 2, scale=1e-8)]),
        (project_onto_span, [case("aligned", 2)]),
    ],
)
def test_planted_violators_fail(project: Project, examples: list[Case]) -> None:
    for one in examples:
        with pytest.raises(AssertionError):
            check_project_out(project, one, "tensor")


@settings(deadline=None, max_examples=60)
@given(one=every_case(), kind=st.sampled_from(KINDS))
def test_the_two_parts_add_up(one: Case, kind: str) -> None:
    first, *others = gradients_of(one, kind)
    total = flat(project_out(first, *others)) + flat(project_onto_span(first, *others))
    slack = 2 * ROUNDING[one.dtype] * min(condition_of(one.jacobian[1:]), CONDITION)
    assert float((total - one.jacobian[0]).norm()) <= slack * float(one.norms[0])


def test_dependent_others_count_once_and_small_ones_count() -> None:
    first = torch.tensor([1.0, 2.0, 3.0])
    others = [
        torch.tensor([1.0, 0.0, 0.0]),
        torch.tensor([-2.0, 0.0, 0.0]),
        torch.tensor([0.0, 1e-12, 0.0]),
        torch.zeros(3),
    ]
    result = project_out(first, *others)
    assert result.tolist() == pytest.approx([0.0, 0.0, 3.0], abs=ROUNDING[torch.float32])


def test_a_gradient_in_the_span_gives_exact_zero() -> None:
    for one in all_cases(ms=(3,), families=("aligned", "conflicting"), scales=(1.0, 1e-30, 1e30)):
        inside = one.jacobian[0] * 0.3 - one.jacobian[1] * 2.0
        assert not project_out(inside, one.jacobian[0], one.jacobian[1]).any()
        span = project_onto_span(inside, one.jacobian[0], one.jacobian[1])
        assert torch.allclose(span, inside, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("project", [project_out_, project_onto_span_])
def test_in_place_keeps_objects_and_agrees(project: Project, kind: str) -> None:
    one = case("conflicting", 3)
    first, *others = gradients_of(one, kind)
    copy = {project_out_: project_out, project_onto_span_: project_onto_span}[project]
    expected = flat(copy(first, *others))
    tensors = [first] if kind == "tensor" else list(first.values() if kind == "dict" else first)
    kept = [flat(g) for g in others]
    assert project(first, *others) is first
    after = [first] if kind == "tensor" else list(first.values() if kind == "dict" else first)
    assert all(a is b for a, b in zip(tensors, after, strict=True))
    assert torch.equal(flat(first), expected)
    assert all(torch.equal(flat(g), k) for g, k in zip(others, kept, strict=True))


def test_without_others_nothing_changes() -> None:
    first = torch.tensor([1.0, 2.0])
    assert torch.equal(project_out(first), first)
    assert not project_onto_span(first).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_overflow_stays_visible(value: float) -> None:
    first = torch.tensor([1.0, value])
    assert not torch.isfinite(project_out(first, torch.tensor([1.0, 1.0]))).all()
    finite = torch.tensor([1.0, 2.0])
    assert not torch.isfinite(project_out(finite, first)).all()


def test_complex_gradients_count_as_real_and_imaginary_parts() -> None:
    first = torch.tensor([1.0 + 2.0j, 3.0 - 1.0j])
    other = torch.tensor([0.0 + 1.0j, 0.0 + 0.0j])
    assert project_out(first, other).tolist() == [1.0 + 0.0j, 3.0 - 1.0j]
    assert project_out(first.conj(), other).tolist() == [1.0 + 0.0j, 3.0 + 1.0j]


def test_rtol_out_of_range_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="`rtol` of `project_out_` must be in"):
        project_out(torch.ones(2), torch.ones(2), rtol=1.0)
    with pytest.raises(ValueError, match="`rtol` of `project_onto_span_` must be in"):
        project_onto_span_(torch.ones(2), torch.ones(2), rtol=-1.0)
