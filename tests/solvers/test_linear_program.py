"""linear_program beside HiGHS, at every scale; its certificate, masks and groups."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.solvers import SolverResult, linear_program

VALUE_TOL = 1e-7
"""HiGHS's own tolerances of feasibility and optimality, on problems of size one."""

SCALES = (1e-30, 1e-8, 1.0, 1e30)


class Program(NamedTuple):
    """max c . x subject to A x >= b, s . x = 1, x >= 0; every number of size one."""

    c: np.ndarray
    a: np.ndarray
    b: np.ndarray
    s: np.ndarray


def program(seed: int, kind: str) -> Program:
    """Random rows; small integers, which make degenerate vertices; or a Gramian of low rank."""
    g = np.random.default_rng(seed)
    n, p = int(g.integers(1, 9)), int(g.integers(1, 9))
    if kind == "gramian":
        p = n
        rows = g.standard_normal((n, n // 2 + 1))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        a = rows @ rows.T
    else:
        a = g.standard_normal((p, n))
    b = g.standard_normal(p) * g.choice([0.0, 0.3, 1.0]) - g.choice([0.0, 0.5])
    c = g.standard_normal(n)
    s = np.ones(n) if g.random() < 0.5 else 10 ** g.uniform(-4, 0, n)
    if kind == "integer":
        a, b, c = np.round(a), np.round(b), np.round(c)
    return Program(c, a, b, s / s.max())


def by_highs(one: Program) -> scipy.optimize.OptimizeResult:
    return scipy.optimize.linprog(
        -one.c, A_ub=-one.a, b_ub=-one.b, A_eq=one.s[None], b_eq=[1.0], method="highs"
    )


def tensors(one: Program) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(v)) for v in one)


def solve(one: Program, **settings: object) -> SolverResult:
    c, a, b, s = tensors(one)
    return linear_program(c, a, b, budget=s, **settings)  # type: ignore[arg-type]


def check(one: Program, result: SolverResult) -> None:
    """Feasible, and as good as HiGHS; or infeasible where HiGHS says so."""
    reference = by_highs(one)
    assert reference.status in (0, 2)
    if reference.status == 2:
        assert int(result.status) == SolverStatus.INFEASIBLE
        return
    assert int(result.status) == SolverStatus.CONVERGED
    x = result.weights.numpy()
    assert (x >= 0.0).all()
    assert abs(one.s @ x - 1.0) <= 1e-12
    assert (one.a @ x - one.b).min() >= -VALUE_TOL * (1.0 + x.max())
    assert abs(one.c @ x + reference.fun) <= VALUE_TOL * (1.0 + np.abs(one.c) @ x)


kinds = st.sampled_from(["normal", "integer", "gramian"])


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**20), kinds, st.sampled_from(SCALES), st.sampled_from(SCALES))
def test_it_agrees_with_highs(seed: int, kind: str, of_rows: float, of_cost: float) -> None:
    one = program(seed, kind)
    factors = of_rows ** np.linspace(0.0, 1.0, len(one.b))
    scaled = Program(one.c * of_cost, one.a * factors[:, None], one.b * factors, one.s)
    result = solve(scaled)
    check(one, result)
    if int(result.status) == SolverStatus.CONVERGED:
        assert float(result.gap) <= 1e-9


@settings(deadline=None, max_examples=60)
@example(2**20 - 1, "integer", 1e-30)  # a row of zeros that no point meets
@example(850, "integer", 1e30)  # two solutions, of which rounding chooses
@given(st.integers(0, 2**20), kinds, st.sampled_from([1e-30, 1e30, 2.0**-100, 2.0**100]))
def test_the_budget_sets_the_unit(seed: int, kind: str, factor: float) -> None:
    one = program(seed, kind)
    plain = solve(one)
    scaled = Program(one.c, one.a, one.b / factor, one.s * factor)
    moved = solve(scaled)
    assert int(moved.status) == int(plain.status)
    if int(plain.status) == SolverStatus.CONVERGED:
        value, best = (float(tensors(one)[0] @ x) for x in (moved.weights, plain.weights))
        assert value * factor == pytest.approx(best, rel=1e-7, abs=1e-9)
    assert float(tensors(scaled)[3] @ moved.weights) == pytest.approx(1.0, rel=1e-12)
    if math.frexp(factor)[0] == 0.5:  # nothing is rounded: the same one of several solutions
        assert torch.equal(solve(scaled).weights * factor, plain.weights)


def test_wrong_answers_fail_the_check() -> None:
    """The violators: the best vertex without the rows, any feasible point, and giving up."""
    problems = [program(seed, "normal") for seed in range(40)]
    possible = [one for one in problems if by_highs(one).status == 0 and len(one.c) > 2]
    assert len(possible) > 10

    def answer(x: np.ndarray, status: SolverStatus = SolverStatus.CONVERGED) -> SolverResult:
        zero = torch.tensor(0.0, dtype=torch.float64)
        return SolverResult(torch.from_numpy(x), torch.tensor(int(status)), zero, zero)

    def unconstrained(one: Program) -> SolverResult:
        return answer(np.eye(len(one.c))[int((one.c / one.s).argmax())] / one.s)

    def feasible(one: Program) -> SolverResult:
        return solve(one._replace(c=0.0 * one.c))

    def gives_up(one: Program) -> SolverResult:
        return answer(solve(one).weights.numpy(), SolverStatus.INFEASIBLE)

    def check_all(violator: Callable[[Program], SolverResult]) -> None:
        for one in possible:
            check(one, violator(one))

    for violator in (unconstrained, feasible, gives_up):
        with pytest.raises(AssertionError):
            check_all(violator)


def nearly_diagonal(entry: float) -> tuple[Tensor, ...]:
    """max x_0 + x_1 / s subject to x_0 >= -entry x_1 (x_1 likewise), where x_1 goes up to 1 / s."""
    a = torch.tensor([[1.0, entry], [entry, 1.0]], dtype=torch.float64)
    s = torch.tensor([1.0, 1e-8], dtype=torch.float64)
    return 1.0 / s, a, torch.zeros(2, dtype=torch.float64), s


@pytest.mark.parametrize("entry", [-3.4545e-17, -1e-16, 1e-16, -1e-12, -1e-6])
def test_entries_that_are_rounding_cost_no_certificate(entry: float) -> None:
    c, a, b, s = nearly_diagonal(entry)
    result = linear_program(c, a, b, budget=s)
    assert int(result.status) == SolverStatus.CONVERGED
    x = result.weights
    assert float((a @ x).min()) >= -1e-15 * float(x.sum())
    assert float(c @ x) >= 1e16 * (1.0 - 2.0 * max(-entry * 1e8, 1e-9))


@pytest.mark.parametrize(("entry", "gap"), [(-1e-16, 0.0), (-1e-14, 1e-6), (-1e-9, 1e-1)])
def test_the_certificate_sees_what_is_more_than_rounding(entry: float, gap: float) -> None:
    """The violator of the test above: the point that ignores the rows, with prices to match."""
    c, a, b, s = nearly_diagonal(entry)
    c = c / c.max()
    x, y, v = (torch.tensor(u, dtype=torch.float64) for u in ([0.0, 1e8], [0.0, 0.0], 1e8))
    rounding = 2.0**-50 * 1e8
    expected = max(gap - rounding, 0.0) / (1.0 + gap)
    module = importlib.import_module("moopt.solvers.linear_program")
    judged = module._gap(*(u.numpy() for u in (c, a, b, s, x, y)), float(v))
    assert judged == pytest.approx(expected, rel=1e-6, abs=1e-15)


# Points that are not optimal, where the roundings of A that the variables allow are large: of a
# column that A does not touch, and of variables without a budget, 1e16 beside 1.
UNFINISHED = {
    "a column of zeros": (
        ([0.0, 1.0, 1.0], [[1.0, 0.0, 0.0]], [0.5], [1.0, 1e-8, 1e-8 * (1 - 5e-8)]),
        1,
    ),
    "huge variables": (
        (
            [-0.0355, 1.97e-8, 1.41e-8, 2.7e-9],
            [[1, -4.39e-9, 0, 0], [5.93e-6, 1, -1.056e-8, 0], [0, 0, 1, -3.545e-9], [0, 0, 0, 0]],
            [0.0, 0.0, 0.0, 0.0],
            [1.0, 0.0, 0.0, 0.0],
        ),
        2,
    ),
}


@pytest.mark.parametrize(("numbers", "pivots"), UNFINISHED.values(), ids=UNFINISHED)
def test_roundings_of_the_matrix_excuse_only_what_they_reach(numbers: Any, pivots: int) -> None:
    c, a, b, s = (torch.tensor(v, dtype=torch.float64) for v in numbers)
    result = linear_program(c, a, b, budget=s, max_iter=pivots)
    assert int(result.status) == SolverStatus.MAX_ITER
    assert float(result.gap) > 2e-8


def test_where_nothing_is_feasible_the_violation_is_least() -> None:
    """The largest violation, in units of each row's longest entry, is that of HiGHS."""
    found = 0
    for seed in range(60):
        one = program(seed, "normal")
        if by_highs(one).status != 2:
            continue
        found += 1
        lengths = np.abs(one.a).max(-1)
        a, b = one.a / lengths[:, None], one.b / lengths
        n = len(one.c)
        least = scipy.optimize.linprog(
            np.append(np.zeros(n), 1.0),
            A_ub=-np.column_stack([a, np.ones(len(b))]),
            b_ub=-b,
            A_eq=np.append(one.s, 0.0)[None],
            b_eq=[1.0],
            method="highs",
        )
        result = solve(one)
        x = result.weights.numpy()
        assert float((b - a @ x).max()) == pytest.approx(least.fun, abs=VALUE_TOL * (1 + x.max()))
        assert float(result.gap) > 1e-9
    assert found > 10


def test_too_few_pivots_are_a_status() -> None:
    """The certificate notices."""
    stopped = 0
    for seed in range(60):
        one = program(seed, "normal")
        cut = solve(one, max_iter=1)
        if int(cut.status) == SolverStatus.MAX_ITER:
            stopped += 1
            assert float(cut.gap) > 1e-9
        elif int(cut.status) == SolverStatus.CONVERGED:
            check(one, cut)
    assert stopped > 10


def test_what_is_absent_has_no_influence() -> None:
    def form(c: Tensor, a: Tensor, b: Tensor, s: Tensor, on: Tensor) -> SolverResult:
        return linear_program(c, a, b, budget=s, active=on)

    for seed in range(20):
        one = program(seed, "normal")
        n, p = len(one.c), len(one.b)
        keep, rows = np.arange(n) % 3 != 1, np.arange(p) % 3 != 1
        c, a, b, s = (v.copy() for v in one)
        c[~keep], a[:, ~keep], s[~keep] = math.nan, math.inf, math.nan
        b[~rows], a[~rows] = -math.inf, math.nan
        masked = form(*tensors(Program(c, a, b, s)), torch.from_numpy(keep))
        kept = Program(one.c[keep], one.a[rows][:, keep], one.b[rows], one.s[keep])
        dropped = form(*tensors(kept), torch.ones(int(keep.sum()), dtype=torch.bool))
        assert int(masked.status) == int(dropped.status)
        assert not masked.weights[torch.from_numpy(~keep)].any()
        assert torch.allclose(
            masked.weights[torch.from_numpy(keep)], dropped.weights, rtol=1e-9, atol=1e-12
        )


def test_nothing_active_is_infeasible() -> None:
    c, a, b = torch.ones(2), torch.eye(2), torch.zeros(2)
    off = torch.tensor([False, False])
    result = linear_program(c, a, b, active=off)
    assert int(result.status) == SolverStatus.INFEASIBLE
    assert result.weights.tolist() == [0.0, 0.0]
    assert math.isinf(float(result.gap))


def test_non_finite_numbers_are_a_status() -> None:
    good = (torch.ones(2), torch.eye(2), torch.zeros(2), torch.ones(2))
    for position in range(4):
        for value in (math.nan, math.inf):
            numbers = [v.double().clone() for v in good]
            numbers[position].view(-1)[0] = value
            result = linear_program(*numbers[:3], budget=numbers[3])
            assert int(result.status) == SolverStatus.NON_FINITE
            assert result.weights.tolist() == [0.5, 0.5]
            assert math.isnan(float(result.gap))


def test_a_variable_outside_of_the_budget_is_bounded_by_the_rows() -> None:
    """max t subject to x_i >= t: the largest smallest entry of a point of the simplex."""
    c = torch.tensor([0.0, 0.0, 0.0, 1.0])
    a = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 1.0, 0.0, -1.0], [0.0, 0.0, 1.0, -1.0]])
    s = torch.tensor([1.0, 1.0, 1.0, 0.0])
    result = linear_program(c, a, torch.zeros(3), budget=s)
    assert int(result.status) == SolverStatus.CONVERGED
    assert torch.allclose(result.weights, torch.full((4,), 1 / 3, dtype=torch.float64))
    # Without the rows it grows for ever, and no certificate exists.
    free = linear_program(c, a, torch.full((3,), -math.inf), budget=s)
    assert int(free.status) == SolverStatus.MAX_ITER
    assert float(free.gap) > 1e-9


def test_groups_are_independent() -> None:
    problems = [program(seed, "normal") for seed in range(200)]
    problems = [one for one in problems if one.a.shape == problems[0].a.shape]
    assert len(problems) > 1
    c, a, b, s = (torch.stack(v) for v in zip(*map(tensors, problems), strict=True))
    together = linear_program(c, a, b, budget=s)
    for i, one in enumerate(problems):
        alone = solve(one)
        assert torch.equal(together.weights[i], alone.weights)
        assert int(together.status[i]) == int(alone.status)
    shared = linear_program(c, a[0], b[0])
    assert torch.equal(shared.weights[1], linear_program(c[1], a[0], b[0]).weights)


def test_wrong_shapes_and_settings_name_the_remedy() -> None:
    c, a, b = torch.ones(3), torch.ones(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match=r"`matrix` of `linear_program` must have shape"):
        linear_program(c, c, b)
    for empty in (torch.ones(0, 3), torch.ones(2, 0)):
        with pytest.raises(ValueError, match=r"with p, n >= 1; got"):
            linear_program(empty[0] if len(empty) else c, empty, torch.zeros(len(empty)))
    with pytest.raises(ValueError, match=r"`cost` of `linear_program` must have shape \[..., 3\]"):
        linear_program(b, a, b)
    with pytest.raises(ValueError, match=r"`bound` of `linear_program` must have shape \[..., 2\]"):
        linear_program(c, a, c)
    with pytest.raises(ValueError, match="`budget` of `linear_program`"):
        linear_program(c, a, b, budget=b)
    with pytest.raises(ValueError, match="`active` of `linear_program`"):
        linear_program(c, a, b, active=torch.tensor([True]))
    for wrong in ({"tol": 0.0}, {"max_iter": 0}):
        with pytest.raises(ValueError, match="`tol` of `linear_program` must be positive"):
            linear_program(c, a, b, **wrong)


def test_groups_may_differ_in_the_budget_alone() -> None:
    c, a, b = torch.tensor([1.0, 2.0]), torch.eye(2), torch.zeros(2)
    budgets = torch.tensor([[1.0, 1.0], [1.0, 4.0], [2.0, 1.0]])
    result = linear_program(c, a, b, budget=budgets)
    assert result.weights.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    assert result.status.shape == (3,)
