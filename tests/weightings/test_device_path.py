"""The path that other devices take traces in one graph; that it reads no value is a rule."""

from __future__ import annotations

import pytest
import torch

from moopt.records.step_statistics import StepStatistics
from moopt.weightings import WEIGHTINGS, FairGrad, NashMTL
from tests.cases import case
from tests.weightings.properties import DIRECTION_TOL
from tests.weightings.settings import SETTINGS, Build, fixed


def run(name: str, gramian: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    losses = torch.ones_like(gramian[..., 0])
    weighting = (SETTINGS | UNROLLED)[name](range(gramian.shape[-1]))
    names = tuple(f"objective {i}" for i in range(gramian.shape[-1]))
    statistics = StepStatistics(gramian=gramian, losses=losses, names=names, active=active)
    return weighting(statistics).weights


UNROLLED: dict[str, Build] = {
    # A trace unrolls every Newton step, 20 or 32 by default; these cases need fewer than 8.
    "NashMTL in 8": fixed(NashMTL(max_iter=8)),
    "FairGrad in 8": fixed(FairGrad(max_iter=8)),
}

TRACED = [
    ("MGDA", 3),
    ("MGDA l2", 2),
    ("MGDA loss+", 3),
    ("DualSpaceMGDA", 3),
    ("DualSpaceMGDA", 5),
    ("CRMOGM", 2),
    ("DualProj", 3),
    ("UPGrad", 3),
    ("CAGrad", 2),
    ("NashMTL in 8", 2),
    ("FairGrad in 8", 2),
    ("SDMGrad", 2),
    ("PMTL", 2),
    ("EPO", 2),
    ("PMGDA", 2),
    ("Constant", 3),
    ("PCGrad", 3),
    ("IMTLG", 3),
    ("ConFIG", 3),
    ("AlignedMTL", 2),
    ("GradVac", 3),
    ("Random", 3),
    ("Krum multi", 3),
    ("NTK", 3),
    ("DBMTL", 3),
    ("GradNorm", 2),
    ("Mean", 3),
    ("Sum", 3),
    ("MoDo", 3),
    ("SDMGradStochastic preferred", 3),
    ("NGDiff", 3),
    ("GRU clip", 3),
    ("BLUR at least", 3),
    ("OrthogonalSteepestDescent", 3),
    ("HAMU", 3),
    ("PCD", 3),
]


def test_every_method_is_traced() -> None:
    """Settings are named after their method."""
    assert {name.split()[0] for name, _ in TRACED} == set(WEIGHTINGS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "m"), TRACED)
def test_traces_in_one_graph_and_agrees_with_the_host(name: str, m: int) -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda g, a: run(name, g, a), fullgraph=True, backend="aot_eager")
    for family in ("conflicting", "opposite" if m > 2 else "full_stationary"):
        one = case(family, m, norm_ratio=1e2)
        active = torch.ones(m, dtype=torch.bool)
        host, traced = (f(one.gramian, active) for f in (lambda g, a: run(name, g, a), compiled))
        difference = one.jacobian.T @ (host - traced)
        scale = float((host.abs() * one.norms).sum())
        assert float(difference.norm()) <= DIRECTION_TOL * scale
