"""Regular problems on the host never reach the general, slower forms; others do."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.solvers import min_norm_point
from moopt.weightings import WeightingOutput
from tests.cases import case
from tests.weightings.settings import SETTINGS

# Setting -> (module and name of the general form, number of objectives).
GENERAL: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "IMTLG": ("moopt.weightings.imtl_g", "dual_space_mgda_weights", (2, 4, 5, 12)),
    "ConFIG": ("moopt.weightings.con_fig", "dual_space_mgda_weights", (2, 4, 5, 12)),
    "AlignedMTL": ("moopt.weightings.aligned_mtl", "principal_components", (2, 4, 5, 12)),
    "AlignedMTL median": ("moopt.weightings.aligned_mtl", "principal_components", (2, 5)),
    "AlignedMTL rmse": ("moopt.weightings.aligned_mtl", "principal_components", (2, 5)),
    "AlignedMTL with a preference": (
        "moopt.weightings.aligned_mtl",
        "principal_components",
        (2, 5),
    ),
    **{
        f"DualSpaceMGDA {variant} {length}": (
            "moopt.weightings.dual_space_mgda",
            "_solve",
            (2, 3, 5),
        )
        for variant in ("dual_basis", "unit_dual", "projected")
        for length in ("mean_gradient", "keep")
    },
    "GradVac": ("moopt.weightings.gradvac", "unit_rows", (2, 3, 5)),
    "PCGrad": ("moopt.weightings.pcgrad", "pcgrad_weights", (2, 3, 5)),
    "PCGrad given": ("moopt.weightings.pcgrad", "pcgrad_weights", (2, 3, 5)),
    "Krum": ("moopt.weightings.krum", "all_finite", (3, 5, 12)),
    "Krum multi": ("moopt.weightings.krum", "all_finite", (3, 5, 12)),
    "PCD": ("moopt.weightings.pcd", "quota_point", (2, 3, 5, 12)),
    "PCD tau 0": ("moopt.weightings.pcd", "quota_point", (2, 3, 5, 12)),
}


EMPTY_IS_REGULAR = ("GradVac", "PCGrad", "PCGrad given")


def step(name: str, gramian: Tensor, active: Tensor | None) -> WeightingOutput:
    m = gramian.shape[-1]
    names = tuple(f"objective {i}" for i in range(m))
    losses = torch.ones(m, dtype=torch.float64)
    given = StepStatistics(gramian=gramian, losses=losses, names=names, active=active)
    return SETTINGS[name](range(m))(given)


def refusing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, function, _ = GENERAL[name]

    def refuse(*anything: object, **more: object) -> None:
        raise ArithmeticError("the general form")

    monkeypatch.setattr(importlib.import_module(module), function, refuse)


@pytest.mark.parametrize("name", GENERAL)
def test_regular_problems_take_the_shortcut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, name)
    for m in GENERAL[name][2]:
        for family in ("aligned", "orthogonal"):
            for norm_ratio in (1.0, 10.0):
                gramian = case(family, m, norm_ratio=norm_ratio).gramian
                step(name, gramian, None)
                if m > 3:
                    active = torch.arange(m) != 1
                    gramian[1], gramian[:, 1] = math.nan, math.inf
                    assert float(step(name, gramian, active).weights[1]) == 0.0


@pytest.mark.parametrize("name", GENERAL)
def test_irregular_problems_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, name)
    broken = torch.eye(4, dtype=torch.float64)
    broken[0, 1] = broken[1, 0] = math.nan
    eye = torch.eye(4, dtype=torch.float64)
    nothing = torch.zeros(4, dtype=torch.bool)
    problems = [(broken, None), (eye[None], None)]
    if name not in EMPTY_IS_REGULAR:
        problems.append((eye, nothing))
    for gramian, active in problems:
        with pytest.raises(ArithmeticError, match="the general form"):
            step(name, gramian, active)


def refused_module(monkeypatch: pytest.MonkeyPatch, module: str, function: str) -> None:
    def refuse(*anything: object, **more: object) -> None:
        raise ArithmeticError("the general form")

    monkeypatch.setattr(importlib.import_module(module), function, refuse)


@pytest.mark.parametrize("m", [2, 3])
def test_few_gradients_take_the_closed_form(m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refused_module(monkeypatch, "moopt.solvers.host", "equilibrated")
    for family in ("aligned", "conflicting", "crowded"):
        gramian = case(family, m, norm_ratio=10.0).gramian
        assert int(min_norm_point(gramian).num_iter) == 1
        with pytest.raises(ArithmeticError, match="the general form"):
            min_norm_point(gramian, solver="active_set")


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
@pytest.mark.parametrize("m", [2, 3])
def test_the_closed_form_refuses_what_is_not_regular(
    m: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_module(monkeypatch, "moopt.solvers.host", "closed_form_two")
    refused_module(monkeypatch, "moopt.solvers.host", "closed_form_three")
    for i in range(m):
        gramian = torch.eye(m, dtype=torch.float64)
        gramian[i, i] = value
        min_norm_point(gramian)
        if value != 0.0:
            off = torch.eye(m, dtype=torch.float64)
            off[i, (i + 1) % m] = off[(i + 1) % m, i] = value
            min_norm_point(off)
