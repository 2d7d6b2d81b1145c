"""Cases on an m x m Gramian: the minimum-norm point, singly and in batches, and the dual cone.

The inputs are every family of `moopt.testing` at two ratios of norms, one after the other; times
are for one problem. The gates judge the weights from the Jacobian, not from a solver's own report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import peer
from benchmarks.peer_solvers import CONES, HULLS, absent
from benchmarks.registry import Case, Goal, Inputs, Setting, Way
from moopt.solvers import dual_cone_point, min_norm_point
from moopt.testing import Case as Problem
from moopt.testing import all_cases

TOL = 1e-9
NORM_RATIOS = (1.0, 100.0)
BATCH = 4096
SIZES = (2, 3, 8, 32, 128)
FASTER = {3: 8.0, 8: 8.0, 32: 8.0}
"""What the time of TorchJD's MGDA is to be, in ours."""


def problems(setting: Setting) -> list[Problem]:
    drawn = all_cases((setting.m,), (setting.seed,), norm_ratios=NORM_RATIOS)
    return [c for c in drawn if c.gramian.diagonal().min() > 0]


def certificate(problem: Problem, weights: Tensor) -> float:
    """max_i (||x||^2 - x . g_i) / (||x|| ||g_i||): 0 exactly at the minimum-norm point x."""
    x = problem.jacobian.T @ weights.double()
    shortfall = x.square().sum() - problem.jacobian @ x
    return float((shortfall / (x.norm() * problem.jacobian.norm(dim=-1))).max())


def residual(problem: Problem, preference: Tensor, weights: Tensor) -> float:
    """max_i |min(s_i, g^_i . d)| / ||d|| of unit gradients g^ and shifts s: 0 at the projection."""
    norms = problem.jacobian.norm(dim=-1)
    d = problem.jacobian.T @ weights
    shifts, inner = norms * (weights - preference), problem.jacobian @ d / norms
    return float(torch.minimum(shifts, inner).abs().max() / d.norm())


def judged(
    open_cases: list[Problem], solve: Callable[[Problem], Tensor], how: Callable[..., float]
) -> str:
    """Words for the largest error over the problems that have a common descent direction."""
    try:
        worst = max(how(case, solve(case)) for case in open_cases)
    except ValueError as error:  # quadprog's for what it takes for indefinite
        return f"raises {error}"
    return "" if worst <= TOL else f"errs by {worst:.1e} where {TOL:.0e} is allowed"


def solved(
    setting: Setting,
    solvers: dict[str, Callable[[Problem], Tensor]],
    how: Callable[..., float],
    missing: dict[str, str],
) -> Inputs:
    cases = problems(setting)
    open_cases = [c for c in cases if c.stationarity == "none"]

    def all_of(solve: Callable[[Problem], Tensor]) -> None:
        for case in cases:
            solve(case)

    ways = {
        name: Way(
            functools.partial(all_of, solve),
            functools.partial(judged, open_cases, solve, how),
            ours=name == "moopt",
        )
        for name, solve in solvers.items()
    }
    for name in [n for n, w in ways.items() if not w.ours and w.gate().startswith("raises")]:
        missing[name] = ways.pop(name).gate()
    return Inputs(ways, problems=len(cases), missing=missing)


def min_norm(setting: Setting) -> Inputs:
    solvers: dict[str, Callable[[Problem], Tensor]] = {
        "moopt": lambda case: min_norm_point(case.gramian).weights
    }
    missing = absent(*(package for package, _ in HULLS.values() if package))
    for name, (package, hull) in HULLS.items():
        if package not in missing:
            solvers[name] = lambda case, f=hull: torch.from_numpy(f(case.gramian.numpy()))
    if peer.version():
        theirs = peer.mgda_weighting()
        solvers["TorchJD"] = lambda case: theirs(case.gramian)
    else:
        missing["TorchJD"] = peer.MISSING
    return solved(setting, solvers, certificate, missing)


def dual_cone(setting: Setting) -> Inputs:
    preference = torch.full((setting.m,), 1.0 / setting.m, dtype=torch.float64)
    solvers: dict[str, Callable[[Problem], Tensor]] = {
        "moopt": lambda case: dual_cone_point(case.gramian, preference).weights
    }
    missing = absent(*(package for package, _ in CONES.values() if package))
    for name, (package, cone) in CONES.items():
        if package not in missing:
            solvers[name] = lambda case, f=cone: torch.from_numpy(
                f(case.gramian.numpy(), preference.numpy())
            )
    if peer.version():
        theirs = peer.dual_projection_weighting()
        solvers["TorchJD"] = lambda case: theirs(case.gramian)
    else:
        missing["TorchJD"] = peer.MISSING
    return solved(
        setting, solvers, lambda case, weights: residual(case, preference, weights), missing
    )


def batch(setting: Setting) -> Inputs:
    generator = torch.Generator().manual_seed(setting.seed)
    shape = BATCH, setting.m, setting.m + 5
    jacobians = torch.randn(shape, generator=generator, dtype=torch.float64).to(setting.device)
    gramians = jacobians @ jacobians.mT

    def gate() -> str:
        x = (jacobians.mT @ min_norm_point(gramians).weights[..., None]).squeeze(-1)
        shortfall = x.square().sum(-1, keepdim=True) - (jacobians @ x[..., None]).squeeze(-1)
        worst = float((shortfall / (x.norm(dim=-1, keepdim=True) * jacobians.norm(dim=-1))).max())
        return "" if worst <= TOL else f"errs by {worst:.1e} where {TOL:.0e} is allowed"

    ways = {"moopt": Way(lambda: min_norm_point(gramians), gate, ours=True)}
    return Inputs(ways, problems=BATCH)


def cases(device: torch.device) -> Iterator[Case]:
    for m in SIZES if device.type == "cpu" else ():
        setting = Setting(m, [(m, m)], torch.float64, device)
        goals = [Goal("moopt", "TorchJD", 1 / FASTER[m])] if m in FASTER else []
        quick = m in FASTER
        yield Case(f"min_norm, m = {m}", "min_norm", setting, min_norm, 0, goals, quick)
        yield Case(f"dual_cone, m = {m}", "dual_cone", setting, dual_cone, 0, (), quick)
    for m in (3, 8, 32):
        setting = Setting(m, [(m, m)], torch.float64, device)
        yield Case(f"min_norm of {BATCH}, m = {m}", "min_norm batch", setting, batch)
