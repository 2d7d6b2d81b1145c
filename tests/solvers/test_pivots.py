"""The pivoting methods by themselves: sweeps, refinement, limits, ties, and exchanges of faces."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

import moopt.solvers.active_set as point_module
import moopt.solvers.exchanged_faces as exchange_module
from moopt.solvers.active_set import EXCHANGE_FROM, active_set, cone_active_set, sweep
from moopt.solvers.equilibrated import equilibrated
from moopt.solvers.exchanged_faces import exchanged_faces
from tests.cases import Case, case

SMALL = 1e-13
"""Residual of the optimality conditions relative to 1 + sum(v): rounding of sums of a few terms."""

INDEPENDENT = ("aligned", "conflicting", "crowded", "orthogonal")


def coordinates(one: Case) -> tuple[np.ndarray, np.ndarray]:
    return equilibrated(one.gramian.numpy(), one.norms.numpy())


def without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_module, "_on_full_face", lambda cosines, a, r: None)
    monkeypatch.setattr(point_module, "_on_exchanged_face", lambda cosines, a, r: (None, 0))


def test_a_sweep_inverts_and_a_sweep_back_undoes_it() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4, 6))
    matrix = rows @ rows.T
    table = matrix.copy()
    for p in (2, 0, 3, 1):
        sweep(table, p, 1.0)
        assert abs(table - table.T).max() <= SMALL * abs(table).max()
    np.testing.assert_allclose(-table, np.linalg.inv(matrix), rtol=1e-11)
    for p in (1, 2, 0, 3):
        sweep(table, p, -1.0)
    np.testing.assert_allclose(table, matrix, rtol=1e-10, atol=1e-12)
    sweep(table, 1, 1.0)
    column = matrix[[0, 2, 3], 1] / matrix[1, 1]
    np.testing.assert_allclose(table[[0, 2, 3], 1], column, rtol=1e-10)
    schur = matrix[0, 2] - matrix[0, 1] * matrix[1, 2] / matrix[1, 1]
    np.testing.assert_allclose(table[0, 2], schur, rtol=1e-9)


def check_point(cosines: np.ndarray, r: np.ndarray, v: np.ndarray) -> None:
    """v >= 0, r - A v <= 0, and one of both zero."""
    gradient = r * (1.0 - float(r @ v)) - cosines @ v
    slack = SMALL * (1.0 + v.sum())
    assert (v >= 0.0).all()
    assert gradient.max() <= slack
    assert abs(np.minimum(v, -gradient)).max() <= slack


@pytest.mark.parametrize("family", INDEPENDENT)
@pytest.mark.parametrize("shortcuts", [True, False])
def test_the_point_is_exact(family: str, shortcuts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shortcuts:
        without_shortcuts(monkeypatch)
    for m in (2, 5, 9, EXCHANGE_FROM + 4):
        for norm_ratio in (1.0, 1e4):
            cosines, r = coordinates(case(family, m, norm_ratio=norm_ratio))
            v, pivots = active_set(cosines, r, 10 * m + 20)
            check_point(cosines, r, v)
            assert 1 <= pivots <= 3 * m
            if family == "orthogonal":
                assert pivots == (m if not shortcuts else 1)


def test_every_row_on_the_face_is_one_pivot() -> None:
    for m in (4, 6, EXCHANGE_FROM - 1):
        for norm_ratio in (1.0, 10.0):
            cosines, r = coordinates(case("orthogonal", m, norm_ratio=norm_ratio))
            spread = 0.9 * cosines + 0.1
            v, pivots = active_set(spread, np.ones_like(r), 100)
            assert pivots == 1
            np.testing.assert_allclose(v, v[0], rtol=1e-14)
            check_point(spread, np.ones_like(r), v)


def test_the_full_face_is_refused_where_it_is_not_the_answer() -> None:
    refuse = point_module._on_full_face
    for family in ("conflicting", "crowded", "aligned"):
        for seed in range(6):
            cosines, r = coordinates(case(family, 4, seed, norm_ratio=10.0))
            table = cosines + np.outer(r, r)
            v = refuse(cosines, table, r)
            exact = np.linalg.solve(table, r)
            assert (v is not None) == (exact.min() > 0.0)
            if v is not None:
                check_point(cosines, r, v)
    ones = np.ones((3, 3))
    assert refuse(ones, 2.0 * ones, np.ones(3)) is None  # singular
    # Nearly singular: the residual tells.
    off = np.diag([0.0, 1e-15, -1e-15])
    nearly = refuse(ones + off, 2.0 * ones + off, np.array([1.0, 0.5, 0.25]))
    assert nearly is None


@pytest.mark.parametrize("family", ["conflicting", "aligned"])
def test_each_pivot_lowers_the_objective(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_shortcuts(monkeypatch)
    cosines, r = coordinates(case(family, 9, norm_ratio=4.0))
    a = cosines + np.outer(r, r)
    values = []
    for limit in range(1, 20):
        v, pivots = active_set(cosines, r, limit)
        assert pivots <= limit
        assert v.sum() > 0.0
        values.append(0.5 * v @ a @ v - r @ v)
    assert all(b <= a + 1e-14 for a, b in itertools.pairwise(values))
    assert values[0] == pytest.approx(-0.5 * r.max() ** 2 / 2.0 * 1.0, rel=1e-12)


def test_refinement_restores_a_spoiled_solution() -> None:
    cosines, r = coordinates(case("aligned", 5))
    table = cosines + np.outer(r, r)
    exact = np.linalg.solve(table, r)
    assert exact.min() > 0.0
    for p in range(5):
        sweep(table, p, 1.0)
    spoiled = exact * (1.0 + 1e-7 * np.arange(5))
    gradient = functools.partial(point_module._gradient, cosines, r)
    z = point_module._refined(table, gradient, np.ones(5), np.zeros(5), spoiled)
    np.testing.assert_allclose(z, exact, rtol=1e-12)
    # Off the face it holds the gradient from scratch.
    inside = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    one = cosines + np.outer(r, r)
    sweep(one, 0, 1.0)
    spoiled = np.array([0.3, 9.0, 9.0, 9.0, 9.0])
    z = point_module._refined(one, gradient, inside, np.zeros(5), spoiled)
    v = np.array([r[0] / (1.0 + r[0] ** 2), 0.0, 0.0, 0.0, 0.0])
    expected = r * (1.0 - float(r @ v)) - cosines @ v
    np.testing.assert_allclose(z, np.where(inside > 0.0, v, expected), rtol=1e-12)


def test_a_ray_is_the_answer_where_the_hull_holds_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    without_shortcuts(monkeypatch)
    for family, m in (("strongly_stationary", 3), ("full_stationary", 4), ("opposite", 5)):
        for seed in range(4):
            cosines, r = coordinates(case(family, m, seed))
            v, pivots = active_set(cosines, r, 100)
            assert (v >= 0.0).all()
            assert v @ cosines @ v <= 1e-13 * float(r @ v) ** 2
            assert pivots <= 2 * m


def check_shift(cosines: np.ndarray, start: np.ndarray, shift: np.ndarray) -> None:
    y = cosines @ (start + shift)
    size = abs(start).sum() + shift.sum()
    assert (shift >= 0.0).all()
    assert abs(np.minimum(shift, y)).max() <= SMALL * size


@pytest.mark.parametrize("family", [*INDEPENDENT, "near_opposite"])
def test_the_shift_onto_the_cone_is_exact(family: str) -> None:
    for m in (2, 5, 9):
        for seed in range(4):
            cosines, _ = coordinates(case(family, m, seed))
            start = np.random.default_rng(seed).standard_normal(m)
            shift, pivots = cone_active_set(cosines, start, 10 * m + 20)
            check_shift(cosines, start, shift)
            if (cosines @ start >= 0.0).all():
                assert pivots == 0
                assert not shift.any()
            elif family == "orthogonal":
                assert pivots == (start < 0.0).sum()
                np.testing.assert_allclose(shift, np.maximum(-start, 0.0), atol=1e-15)


def test_a_dependent_row_is_left_out_of_the_face() -> None:
    """Opposite rows: the face of one already makes the product of the other zero."""
    cosines = np.array([[1.0, -1.0, 0.6], [-1.0, 1.0, -0.6], [0.6, -0.6, 1.0]])
    for start in ([1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.3]):
        shift, pivots = cone_active_set(cosines, np.array(start), 50)
        check_shift(cosines, np.array(start), shift)
        assert pivots <= 3


def test_a_limit_on_pivots_leaves_a_feasible_shift() -> None:
    for seed in range(6):
        cosines, _ = coordinates(case("conflicting", 9, seed))
        start = np.random.default_rng(seed).standard_normal(9)
        values = []
        for limit in range(12):
            shift, pivots = cone_active_set(cosines, start, limit)
            assert pivots <= limit
            assert (shift >= 0.0).all()
            values.append(0.5 * shift @ cosines @ shift + start @ cosines @ shift)
        assert all(b <= a + 1e-13 for a, b in itertools.pairwise(values))
        assert values[0] == 0.0


def test_refinement_restores_a_spoiled_shift() -> None:
    cosines, _ = coordinates(case("aligned", 4))
    start = -np.array([1.0, 2.0, 0.5, 1.0])
    need = cosines @ start
    table = cosines.copy()
    for p in range(4):
        sweep(table, p, 1.0)
    fixed = np.array([0.1, 0.0, 0.0, 0.2])
    exact = -start - fixed
    spoiled = exact * (1.0 + 1e-7 * np.arange(4))

    def gradient(s: np.ndarray) -> np.ndarray:
        return -(need + cosines @ s)

    s = point_module._refined(table, gradient, np.ones(4), fixed, spoiled)
    np.testing.assert_allclose(s, exact, rtol=1e-12)
    outside = point_module._refined(table, gradient, np.zeros(4), fixed, spoiled)
    np.testing.assert_allclose(outside, -(need + cosines @ fixed), rtol=1e-12)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("m", [4, 9, 20])
def test_exchanges_solve_many_problems_at_once(
    m: int, compact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either form of the equations, and each problem as if alone."""
    monkeypatch.setattr(exchange_module, "COMPACT_FROM", 0 if compact else 1000)
    for family in ("aligned", "conflicting", "orthogonal"):
        cosines, _ = coordinates(case(family, m))
        starts = np.random.default_rng(m).standard_normal((5, m))
        starts[0] = abs(starts[0])
        shifts, solved = exchanged_faces(cosines, starts @ cosines)
        assert 5 <= solved <= 5 * exchange_module.EXCHANGES
        for start, shift in zip(starts, shifts, strict=True):
            check_shift(cosines, start, shift)
            alone, _ = exchanged_faces(cosines, (cosines @ start)[None])
            np.testing.assert_allclose(shift, alone[0], rtol=1e-9, atol=1e-12)
        if family == "orthogonal":
            assert solved == 5
            assert exchanged_faces(cosines, abs(starts[:1]))[1] == 1


def test_a_singular_face_ends_the_exchange() -> None:
    ones = np.ones((3, 3))
    shifts, solved = exchanged_faces(ones, -np.ones((1, 3)))
    assert solved == 0
    assert not shifts.any()
