"""The three kinds of gradients: None entries, shared memory, and clear errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moopt.projection import (
    project_conflicts_,
    project_onto_dual_cone_,
    project_onto_span_,
    project_out,
    project_out_,
    rescale_,
)
from tests.projection.gradients import ROUNDING

IN_PLACE = [project_out_, project_onto_span_, project_conflicts_, project_onto_dual_cone_]


def test_none_counts_as_zero_and_becomes_a_tensor_where_needed() -> None:
    first = {"w": torch.tensor([1.0, 1.0]), "b": None, "unused": None}
    other = {"w": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0]), "unused": None}
    project_out_(first, other)
    assert first["w"].tolist() == [0.5, 1.0]
    assert first["b"].tolist() == [-0.5]
    assert first["unused"] is None
    assert other["b"].tolist() == [1.0]


def test_a_none_of_another_is_zero() -> None:
    first = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert [t.tolist() for t in project_out(first, [None, torch.tensor([2.0])])] == [[3.0], [0.0]]


def test_names_go_before_order() -> None:
    first = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    other = {"b": torch.tensor([5.0]), "a": None}
    result = project_out(first, other)
    assert list(result) == ["a", "b"]
    assert float(result["a"]) == 1.0
    assert float(result["b"]) == pytest.approx(0.0, abs=ROUNDING[torch.float32])


def test_a_tuple_with_none_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="call `project_out`"):
        project_out_((torch.ones(1), None), (torch.ones(1), torch.ones(1)))
    result = project_out((torch.ones(1), None), (torch.ones(1), torch.ones(1)))
    assert [t.tolist() for t in result] == [[0.5], [-0.5]]


@pytest.mark.parametrize("project", IN_PLACE)
def test_in_place_writes_reach_memory_shared_with_another(project: Callable) -> None:
    base = torch.tensor([1.0, -2.0, 3.0])
    first, other = base[:2], base[1:]
    expected = project(first.clone(), other.clone())
    expected = expected if isinstance(expected, torch.Tensor) else expected.gradient
    project(first, other)
    assert torch.equal(first, expected)
    assert torch.equal(base[:2], expected)


def test_strided_gradients_are_written_in_place() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    first = base.T[1:3]
    other = torch.ones(2, 3)
    expected = first - first.mean()
    assert project_out_(first, other) is first
    assert torch.allclose(base.T[1:3], expected)
    assert base.T[0].tolist() == [0.0, 4.0, 8.0]


def test_lazy_views_are_written_through() -> None:
    base = torch.tensor([1.0 + 2.0j, 3.0 - 1.0j])
    project_out_(base.conj(), torch.tensor([0.0 + 1.0j, 0.0 + 0.0j]))
    assert base.tolist() == [1.0 + 0.0j, 3.0 - 1.0j]
    real = torch.tensor([1.0, 2.0])
    project_out_(torch._neg_view(real), torch.tensor([1.0, 0.0]))
    assert real.tolist() == [0.0, 2.0]
    rescale_(base.conj(), length=2.0)
    assert float(base.norm()) == pytest.approx(2.0)


def test_a_gradient_projected_off_itself_vanishes() -> None:
    one = torch.tensor([1.0, 2.0])
    assert not project_out_(one, one).any()
    assert [t for t in project_out([], [])] == []
    assert project_out(torch.ones(0), torch.ones(0)).shape == (0,)
    assert float(project_out(torch.tensor(3.0), torch.tensor(2.0))) == 0.0


@pytest.mark.parametrize("project", [*IN_PLACE, rescale_], ids=lambda f: f.__name__)
def test_an_expanded_tensor_is_refused(project: Callable) -> None:
    message = f"`{project.__name__}` must write into memory of its own"
    with pytest.raises(ValueError, match=message):
        project(torch.ones(1).expand(3), torch.ones(3))
    assert project_out(torch.ones(1).expand(3), torch.ones(3)).tolist() == [0.0] * 3


def test_parameters_with_gradients_are_projected_without_a_graph() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    weight.square().sum().backward()
    result = project_out(weight, weight.grad)
    assert not result.requires_grad
    assert not result.any()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("project", IN_PLACE, ids=lambda f: f.__name__)
def test_memory_is_linear(project: Callable, dtype: torch.dtype) -> None:
    """Nothing is longer than the gradient or a chunk; an outer product would be seen."""
    size = 1 << 19
    first, other = torch.full((size,), 0.5, dtype=dtype), torch.ones(size, dtype=dtype)
    with Largest() as largest:
        project(first, other)
    assert largest.numel <= 2 * size
    with Largest() as largest:
        torch.outer(torch.ones(2048), torch.ones(2048))
    assert largest.numel > 2 * size


ERRORS = {
    "kinds": (
        TypeError,
        "of one kind; got a tensor and a sequence",
        torch.ones(2),
        [torch.ones(2)],
    ),
    "nested": (TypeError, "must be a tensor or None; got list", [torch.ones(2)], [[torch.ones(2)]]),
    "number": (TypeError, "must be a tensor, a sequence of tensors", torch.ones(2), 3.0),
    "names": (ValueError, r"the same names; \['b'\]", {"a": torch.ones(1)}, {"b": torch.ones(1)}),
    "lengths": (ValueError, "one entry per parameter", [torch.ones(1)], [torch.ones(1), None]),
    "shapes": (ValueError, "must agree in shape", torch.ones(2), torch.ones(3)),
    "dtypes": (TypeError, "must agree in dtype", torch.ones(2), torch.ones(2).bfloat16()),
    "integers": (TypeError, "must hold floating-point", torch.ones(2), torch.ones(2).long()),
    "devices": (ValueError, "must lie on one device", torch.ones(2), torch.ones(2, device="meta")),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("project", IN_PLACE, ids=lambda f: f.__name__)
def test_errors_name_the_function_the_rule_and_the_remedy(project: Callable, name: str) -> None:
    kind, message, first, other = ERRORS[name]
    if name == "names":
        other = {"a": None, **other}
        first = {**first}
    with pytest.raises(kind, match=message) as caught:
        project(first, other)
    assert f"`{project.__name__}`" in str(caught.value)
