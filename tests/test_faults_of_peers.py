"""The faults that the peer libraries have, by number: each passes here, and is shown in the peer.

`python -m benchmarks.faults` prints the same with figures. Faults 2 and 7 (dtypes, saved state) are
in tests/weightings/test_faults_of_peers.py; fault 3 (several processes) is in tests/distributed.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import moopt
from benchmarks import peer as rival
from benchmarks.fault_conflicts import (
    Violating,
    conflicting,
    ours,
    seen_by_norms,
    seen_by_ours,
    worst_cosine,
)
from benchmarks.faults import Tied, jacobian_of
from moopt.aggregators import AGGREGATORS
from moopt.scalarizations import SCALARIZATIONS, Scalarization
from moopt.solvers import min_norm_point
from moopt.step.method_state import is_stateful
from moopt.testing import OneBatch, all_cases, case
from moopt.weightings import WEIGHTINGS
from tests.optimizer.problems import OneOutput, batch, parameters_of, seeded

NON_CONFLICT = 1e-9  # the promise of the documentation, relative to ||g_i|| ||d||
ALL_ROWS = {**WEIGHTINGS, **SCALARIZATIONS, **AGGREGATORS}


def peers():
    return pytest.importorskip("torchjd.aggregation")


# ---------------------------------------------- 1: an absolute tolerance on the size of gradients


@pytest.mark.parametrize("ratio", [1.0, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("name", ["UPGrad", "DualProj"])
def test_fault_1_no_conflict_at_any_norm_ratio(name, ratio):
    assert worst_cosine(ours(getattr(moopt, name)()), conflicting(ratio=ratio)) >= -NON_CONFLICT


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("name", ["UPGrad", "DualProj"])
def test_fault_1_no_conflict_at_any_size(name, scale):
    assert worst_cosine(ours(getattr(moopt, name)()), conflicting(scale)) >= -NON_CONFLICT


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e12])
def test_fault_1_cagrad_keeps_its_radius_at_any_size(scale):
    for jacobian in conflicting(scale):
        weights = moopt.CAGrad(c=0.5)(moopt.StepStatistics(gramian=jacobian @ jacobian.T)).weights
        mean = jacobian.mean(0)
        distance = (jacobian.T @ weights - mean).norm() / mean.norm()
        assert abs(float(distance) - 0.5) < 1e-6


def test_fault_1_in_the_peer():
    aggregation = peers()
    for name in ("UPGrad", "DualProj"):
        assert worst_cosine(getattr(aggregation, name)(), conflicting(ratio=1e-2)) < -0.5
        assert worst_cosine(getattr(aggregation, name)(), conflicting(1e-4)) < -0.1
    tiny = conflicting(1e-6)[0]
    assert float(aggregation.CAGrad(c=0.5)(tiny).norm()) == 0.0


# ------------------------------------------------- 4: gradients that do not come through backward


@pytest.mark.parametrize("checkpointed", [False, True])
def test_fault_4_tied_weights_and_reentrant_checkpoints(checkpointed):
    torch.manual_seed(0)
    model, plain = Tied(checkpointed), Tied(False)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 6, requires_grad=True)
    gradients = jacobian_of(plain, x)
    record = moopt.backward(model.losses(x), model.parameters(), moopt.Mean())
    torch.testing.assert_close(record.gramian, gradients @ gradients.T, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------- 5: a minimum-norm point that is not one


def excess(jacobian: Tensor, weights: Tensor) -> float:
    """||J'w||^2 over the minimum, minus one; the minimum is certified."""
    best = min_norm_point(jacobian @ jacobian.T)
    assert float(best.gap) <= NON_CONFLICT
    return float((jacobian.T @ weights).square().sum() / (jacobian.T @ best.weights).square().sum())


@pytest.mark.parametrize("m", [8, 32])
def test_fault_5_the_minimum_norm_point_is_one(m):
    """The optimality conditions, from the Jacobian: x . g_i >= ||x||^2 for every i."""
    problems = [c for c in all_cases((m,), norm_ratios=(1.0, 1e2)) if c.stationarity == "none"]
    assert len(problems) > 10
    for problem in problems:
        weights = moopt.MGDA()(moopt.StepStatistics(gramian=problem.gramian)).weights
        x = problem.jacobian.T @ weights
        slack = NON_CONFLICT * float(x.norm()) * problem.norms
        assert (problem.jacobian @ x >= x.square().sum() - slack).all()


def test_fault_5_in_the_peer():
    mgda = peers().MGDA()
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(8, 30, generator=generator, dtype=torch.float64) for _ in range(20)]
    weights = [mgda.weighting(jacobian) for jacobian in draws]
    assert max(excess(j, w) for j, w in zip(draws, weights, strict=True)) > 1.01


# ------------------------------------------------------------------------------------- 6: memory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_fault_6_a_step_needs_the_m_gradients_and_no_more():
    def measured(way):
        program = f"from benchmarks.memory import measure; print(measure({way!r}))"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert measured("moopt") <= 3.5
    if rival.version():
        assert measured("default") >= 5.5


# ------------------------------------------------------ 8: overflow raises from inside the step


@pytest.mark.parametrize("name", ALL_ROWS)
def test_fault_8_an_overflow_is_left_to_the_scaler(name):
    """The step is skipped, the scale halved, and the parameters stay.

    So does the state, but that of a scalarization, which learns from the losses: they are finite.
    """
    method = ALL_ROWS[name].example()
    if "auxiliary" in method.needs:
        method = OneBatch(method)
    model = seeded(OneOutput)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = moopt.CommonDescent(base, method)
    names = ("forget", "retain", "third")
    if not isinstance(method, Scalarization):  # so that its state is not the initial one
        optimizer.backward(dict(zip(names, model.losses(batch()).values(), strict=True)))
        optimizer.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before, kept = parameters_of(model), copy.deepcopy(optimizer.state_dict())
    losses = dict(zip(names, model.losses(100 * batch()).values(), strict=True))
    optimizer.backward(losses, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    for a, b in zip(before, parameters_of(model), strict=True):
        assert torch.equal(a, b)
    now = optimizer.state_dict()
    for group in (*kept["param_groups"], *now["param_groups"]):
        group.pop("moopt_step", None)  # it counts every step, skipped ones too
    assert same(kept, now) or isinstance(method, Scalarization)
    assert is_stateful(method) == any(
        key.startswith("moopt_") for group in now["param_groups"] for key in group
    )


def same(first: object, second: object) -> bool:
    """Bit for bit, whatever is nested in what."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


# ------------------------------------------- 9: a test of non-conflict that cannot see a conflict


@pytest.mark.parametrize("violation", [1e-2, 1e-4, 1e-7])
def test_fault_9_a_conflict_is_seen_however_small(violation):
    """Two gradients; d is nearly along the first, and has a cosine of -violation with the last."""
    problem = case("orthogonal", 2)
    method = Violating(violation=violation)
    direction = problem.jacobian.T @ method(moopt.StepStatistics(gramian=problem.gramian)).weights
    cosine = problem.jacobian[-1] @ direction / direction.norm() / problem.norms[-1]
    assert abs(float(cosine) + violation) < 0.1 * violation
    assert seen_by_ours(method)
    assert not seen_by_ours(Violating(violation=0.0))
    assert not seen_by_norms(problem.jacobian, direction)


def test_fault_9_the_peers_test_sees_a_large_conflict():
    problem = case("orthogonal", 2)
    method = Violating(violation=0.1)
    direction = problem.jacobian.T @ method(moopt.StepStatistics(gramian=problem.gramian)).weights
    assert seen_by_norms(problem.jacobian, direction)
