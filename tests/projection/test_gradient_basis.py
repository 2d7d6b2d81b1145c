"""GradientBasis: exact while there is room, the leading directions afterwards, fixed memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moopt.projection import GradientBasis
from tests.projection.gradients import KINDS, ROUNDING, as_kind, flat, off_the_span


def rows(count: int, size: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


def filled(given: Tensor, budget: int, kind: str = "tensor", **settings) -> GradientBasis:
    basis = GradientBasis(budget, **settings)
    for row in given:
        basis.add_(as_kind(row, kind))
    return basis


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_with_room_it_is_the_projection_off_all(kind: str, dtype: torch.dtype) -> None:
    given, vector = rows(4).to(dtype).double(), rows(1, seed=1)[0].to(dtype)
    basis = GradientBasis(6)
    for row in given:
        basis.add_(as_kind(row, kind, dtype))
    result = flat(basis.project_out(as_kind(vector, kind, dtype)))
    expected = off_the_span(vector.double(), given)
    assert float((result - expected).norm()) <= 10 * ROUNDING[dtype] * float(vector.double().norm())
    assert len(basis) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_merging_loses_nothing_that_fits(kind: str) -> None:
    """Twenty gradients of a three-dimensional space, in the memory of three."""
    space = rows(3)
    given = rows(20, size=3, seed=2) @ space
    basis = filled(given, 3, kind)
    vector = rows(1, seed=3)[0]
    result = flat(basis.project_out(as_kind(vector, kind)))
    assert torch.allclose(result, off_the_span(vector, space), rtol=0.0, atol=1e-9)
    assert len(basis) == 3


def test_one_merge_keeps_the_leading_directions() -> None:
    given = torch.diag(torch.tensor([4.0, 1.0, 3.0, 2.0], dtype=torch.float64))
    basis = filled(given, 3, normalize=False)
    left = basis.project_out(torch.ones(4, dtype=torch.float64))
    assert torch.allclose(left, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64))


def test_one_merge_is_the_truncated_singular_value_decomposition() -> None:
    given = rows(6)
    basis = filled(given, 5, normalize=False)
    vector = rows(1, seed=5)[0]
    leading = torch.linalg.svd(given, full_matrices=False).Vh[:5]
    expected = vector - leading.T @ (leading @ vector)
    assert torch.allclose(basis.project_out(vector), expected, rtol=0.0, atol=1e-10)


def test_normalised_gradients_count_alike() -> None:
    """A large gradient seen once yields to small ones seen often, and not without normalising."""
    often = torch.eye(4, dtype=torch.float64)[:2] * 1e-3
    given = torch.cat([torch.eye(4, dtype=torch.float64)[3:], often.repeat(4, 1)])
    gradient = torch.ones(4, dtype=torch.float64)
    assert filled(given, 2).project_out(gradient).tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0])
    raw = filled(given, 2, normalize=False).project_out(gradient)
    assert float(raw[3].abs()) < 1e-9


def test_the_memory_is_fixed_from_the_budget_on() -> None:
    sizes = []
    basis = GradientBasis(3)
    for row in rows(8, size=1000).float():
        basis.add_([row[:900], None, row[900:]])
        sizes.append(basis.num_bytes)
    assert sizes == [4000, 8000, *[12000] * 6]


def test_parameters_may_get_gradients_later() -> None:
    basis = GradientBasis(2)
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    basis.add_({"a": first, "b": None})
    basis.add_({"a": None, "b": second})
    basis.add_({"a": first, "b": second})
    vector = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.0, 1.0])}
    result = basis.project_out(vector)
    assert torch.allclose(flat(result), torch.tensor([0.0, 1.0, 1.0, 0.0]).double(), atol=1e-6)


def test_the_callers_gradient_is_neither_changed_nor_kept() -> None:
    row = torch.tensor([3.0, 4.0])
    basis = GradientBasis(1)
    basis.add_(row)
    assert row.tolist() == [3.0, 4.0]
    row.fill_(0.0)
    assert basis.project_out(torch.tensor([3.0, 4.0])).abs().max() < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_overflow_does_not_spoil_the_basis(value: float) -> None:
    basis = GradientBasis(2)
    for row in ([1.0, 0.0, 0.0], [0.0, value, 0.0], [0.0, 0.0, 5.0], [value, 1.0, 1.0]):
        basis.add_(torch.tensor(row))
    result = basis.project_out(torch.ones(3))
    assert torch.allclose(result, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)


def test_in_place_projection_and_state_round_trip() -> None:
    basis = filled(rows(4), 3)
    copy = GradientBasis(1)
    copy.load_state_dict(basis.state_dict())
    vector = rows(1, seed=9)[0]
    expected = basis.project_out(vector)
    assert copy.project_out_(vector) is vector
    assert torch.equal(vector, expected)
    assert (copy.budget, copy.normalize, len(copy)) == (3, True, 3)
    copy.add_(rows(1, seed=10)[0])
    assert torch.equal(basis.project_out(rows(1, seed=9)[0]), expected)


def test_errors_name_the_rule_and_the_remedy() -> None:
    with pytest.raises(ValueError, match="`budget` of `GradientBasis` must be an int >= 1"):
        GradientBasis(0)
    basis = GradientBasis(2)
    basis.add_(torch.ones(3))
    with pytest.raises(ValueError, match=r"`GradientBasis.add_` must agree in shape"):
        basis.add_(torch.ones(4))
    with pytest.raises(TypeError, match=r"of `GradientBasis.add_` must be of one kind"):
        basis.add_([torch.ones(3)])
    assert len(basis) == 1
