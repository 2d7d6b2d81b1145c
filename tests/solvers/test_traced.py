"""Every public solver has a form for devices: one graph, no value read, and the host's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import moopt.solvers
from moopt.solvers import (
    SolverResult,
    Stationarity,
    cagrad_point,
    dual_cone_point,
    fixed_point,
    linear_program,
    min_norm_point,
    simplex_projection,
    stationarity,
)
from tests.cases import case

AGREEMENT = 1e-7  # of directions, relative to their terms: two forms of one solver

# The constraint of the linear program: to earn at least the mean of a row.
SOLVERS: dict[str, Callable[[Tensor], Any]] = {
    "min_norm_point": lambda g: min_norm_point(g).weights,
    "dual_cone_point": lambda g: dual_cone_point(g, torch.eye(3, dtype=torch.float64)[0]).weights,
    "cagrad_point": lambda g: cagrad_point(g, c=0.5).weights,
    "fixed_point": lambda g: fixed_point(g, alpha=2.0).weights,
    "simplex_projection": lambda g: simplex_projection(g[0]),
    "stationarity": lambda g: stationarity(g).result.weights,
    "linear_program": lambda g: linear_program(g[0], g[1:2], g[1:2].mean(-1)).weights,
}


def test_the_list_is_complete() -> None:
    types = {SolverResult.__name__, Stationarity.__name__}
    assert set(SOLVERS) == set(moopt.solvers.__all__) - types


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_it_traces_in_one_graph(name: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(SOLVERS[name], fullgraph=True, backend="aot_eager")
    for family in ("conflicting", "full_stationary"):
        one = case(family, 3, norm_ratio=1e2)
        difference = one.jacobian.T @ (compiled(one.gramian) - SOLVERS[name](one.gramian))
        terms = SOLVERS[name](one.gramian).abs() @ one.norms
        assert float(difference.norm()) <= AGREEMENT * float(terms)


@pytest.mark.parametrize("name", SOLVERS)
def test_it_reads_no_value(name: str) -> None:
    with FakeTensorMode():
        assert SOLVERS[name](torch.eye(3, dtype=torch.float64)).shape == (3,)
