"""On a device nothing reads a value: a meta tensor has none, so any reading raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from moopt.projection import (
    GradientBasis,
    project_conflicts_,
    project_onto_dual_cone_,
    project_onto_span_,
    project_out_,
    rescale_,
)


def on_meta(dtype: torch.dtype) -> list[Tensor | None]:
    return [torch.empty(5, 3, dtype=dtype, device="meta"), None]


def merged(*gradients: list[Tensor | None]) -> None:
    basis = GradientBasis(2)
    for gradient in gradients:
        basis.add_(gradient)
    basis.project_out_(gradients[0])


FUNCTIONS: dict[str, Callable[..., object]] = {
    "project_out_": project_out_,
    "project_onto_span_": project_onto_span_,
    "project_conflicts_": project_conflicts_,
    "project_conflicts_ clip": lambda *g: project_conflicts_(*g, cosine_clip=-0.5),
    "project_onto_dual_cone_": project_onto_dual_cone_,
    "project_onto_dual_cone_ strength": lambda *g: project_onto_dual_cone_(*g, strength=0.5),
    "rescale_ mean_norm": rescale_,
    "rescale_ mean_gradient": lambda *g: rescale_(*g, length="mean_gradient"),
    "rescale_ number": lambda *g: rescale_(g[0], length=2.0),
    "GradientBasis": merged,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_value_is_read(name: str, dtype: torch.dtype) -> None:
    FUNCTIONS[name](*(on_meta(dtype) for _ in range(4)))


def test_reading_a_value_of_a_meta_tensor_raises() -> None:
    """The violator of the test above."""
    with pytest.raises(RuntimeError):
        float(torch.empty((), device="meta"))
