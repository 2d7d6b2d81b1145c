"""One check per guarantee: `check(build, case)` raises AssertionError where the promise breaks."""

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.solvers import min_norm_point
from moopt.testing.directions import (
    DIRECTION_TOL,
    SIMPLEX_TOL,
    STATIONARY_TOL,
    Build,
    Outcome,
    State,
    assert_same_direction,
    losses_of,
    pasts,
    statistics,
)
from moopt.testing.sampling import Case
from moopt.weightings import Guarantee, Weighting

# These restate what the documentation promises, and are not imported from the code they judge.
EPS = torch.finfo(torch.float64).eps

DESCENT_TOL = 1e-9
"""g_i . d >= -DESCENT_TOL ||g_i|| ||d||: the promise of the documentation."""

SLOPE_ROUNDING = 64 * EPS
"""Rounding of an inner product g_i . sum_j w_j g_j, relative to ||g_i|| sum_j |w_j| ||g_j||."""

INDEPENDENT = 1e-8
"""Smallest eigenvalue of the cosines above which gradients are independent beyond any doubt."""

CLEAR = 1e-4
"""Inner product with every unit gradient of a direction, no longer than they, that surely lowers
them all: the shortest vector in their hull."""

CERTIFIED = 1e-10
"""The gap that a certificate promises at most; a smaller one does not excuse missing it."""

IDEMPOTENT_TOL = 1e-12
"""Rounding of a sum of weights, and of the cosine of two equal gradients, which divides it."""

CONDITION = 100.0
"""How many roundings of the entries of a Gramian the solution of an ill-posed problem may differ
by: the products of two orders differ by a few."""

LARGEST_ROUNDING = 1e-3
"""And never by more than this, relative to the size: past it a method amplifies its rounding."""

NEGLIGIBLE = 1e-7
"""Weights below this, beside those of the mean, are the rounding of weights that are zero."""


def outcomes(build: Build, case: Case, factors: Tensor | float = 1.0) -> list[Outcome]:
    """What is made of a case at the first step; and, for a method with a state, at the second.

    Before that came the same rows in the opposite order, so that it did not learn from this case.

    Args:
        build, case: the method and the case.
        factors: of the rows and of their losses, at either step; one for all, or float64 `[m]`.
    """
    weighting = build(range(case.m))
    scale = factors * torch.ones(case.m, dtype=torch.float64)
    squares = scale[:, None] * scale
    now = statistics(case.gramian * squares, losses_of(case) * scale)
    before = statistics(case.gramian.flip(0, 1) * squares, losses_of(case).flip(0) * scale)
    rows = case.jacobian * scale[:, None]
    return [Outcome(rows, weighting(now, past)) for past in pasts(weighting, before)]


def check_simplex(build: Build, case: Case) -> None:
    """Weights >= 0 that sum to one."""
    for found in outcomes(build, case):
        weights = found.output.weights
        total = float(weights.sum())
        assert (weights >= 0).all(), f"a weight is negative: {weights.tolist()}"
        assert abs(total - 1.0) <= SIMPLEX_TOL, f"the weights sum to {total!r}, not to 1"


def _unit_rows(case: Case) -> Tensor:
    """The gradients divided by their length; one of zero stays."""
    return (case.jacobian / case.norms[:, None]).nan_to_num()


def _check_descent(case: Case, found: Outcome) -> None:
    length = float(found.direction.norm())
    along = _unit_rows(case) @ found.direction
    worst = int(along.argmin())
    assert along[worst] >= -DESCENT_TOL * length - SLOPE_ROUNDING * found.size, (
        f"the direction raises objective {worst}: g . d / ||g|| is {float(along[worst]):.3g}, and"
        f" ||d|| is {length:.3g}"
    )


def _check_vanishes(found: Outcome) -> None:
    length, size = float(found.direction.norm()), found.size
    assert length <= STATIONARY_TOL * size, (
        f"the direction does not vanish: its length is {length:.3g}, that of its terms {size:.3g}"
    )


def check_non_conflicting(build: Build, case: Case) -> None:
    """Componentwise, with a certificate; at a stationary point the direction must vanish instead.

    The certificate may be missing only where the terms of the direction cancel so far that the
    rounding of the Gramian alone exceeds the tolerance of the gap. And where the gradients clearly
    have a common descent direction, standing still does not count as one.
    """
    unit = _unit_rows(case)
    shortest = unit.T @ min_norm_point(unit @ unit.T).weights
    clear = float((unit @ shortest).min()) > CLEAR
    for found in outcomes(build, case):
        status, result = found.status, found.output.result
        standing = not found.direction.any()
        assert not (clear and (standing or status == SolverStatus.DEGENERATE)), (
            f"the direction is{' not' * (not standing)} zero and the status {status.name}, though"
            " the gradients have a common descent direction"
        )
        if status == SolverStatus.DEGENERATE:
            _check_vanishes(found)
            continue
        if result is not None and status != SolverStatus.CONVERGED:
            gap = max(float(result.gap), CERTIFIED)
            hidden = gap * float(found.direction.norm()) <= SLOPE_ROUNDING * found.size
            excused = hidden and status == SolverStatus.MAX_ITER
            assert excused, (
                f"the solver ends with {status.name} and gap {gap:.3g} on a well-posed problem"
            )
        _check_descent(case, found)


def check_non_conflicting_if_independent(build: Build, case: Case) -> None:
    """Independent rows must be certified, and certified rows must descend."""
    unit = _unit_rows(case)
    independent = float(torch.linalg.eigvalsh(unit @ unit.T)[0]) > INDEPENDENT
    for found in outcomes(build, case):
        status = found.status
        assert status == SolverStatus.CONVERGED or not independent, (
            f"the gradients are independent, but the status is {status.name}"
        )
        if status == SolverStatus.CONVERGED:
            _check_descent(case, found)


def check_scale_equivariant(build: Build, case: Case) -> None:
    """Powers of two change no mantissa, so that rounding flips no decision (a rank, a vertex).

    A direction that is rounding of its terms counts as zero.
    """
    factors = 2.0 ** torch.tensor([(5 * i) % 17 - 8 for i in range(case.m)], dtype=torch.float64)
    for pair in zip(outcomes(build, case), outcomes(build, case, factors), strict=True):
        lengths = torch.stack([found.direction.norm() for found in pair])
        sizes = torch.tensor([found.size for found in pair], dtype=torch.float64)
        if (lengths <= STATIONARY_TOL * sizes).any():
            assert (lengths <= DIRECTION_TOL * sizes).all(), (
                "for rescaled objectives the direction is no longer zero, or is zero now:"
                f" {tuple(lengths.tolist())}"
            )
            continue
        first, second = (found.direction / n for found, n in zip(pair, lengths, strict=True))
        told = "for rescaled objectives, and divided by its length,"
        assert_same_direction(first, second, float((sizes / lengths).max()), told)


def check_positively_homogeneous(build: Build, case: Case) -> None:
    """d(c J) = c d(J), for three factors c > 0: powers of two, as for the scales of single rows."""
    usual = outcomes(build, case)
    for factor in (2.0**-7, 2.0, 2.0**20):
        told = f"for {factor:g} times the gradients, divided by that,"
        for before, after in zip(usual, outcomes(build, case, factor), strict=True):
            scale = max(before.size, after.size / factor)
            assert_same_direction(after.direction / factor, before.direction, scale, told)


def check_permutation_equivariant(build: Build, case: Case) -> None:
    """The order of the objectives does not matter, at the first step and at the second.

    Shifted by one, and with the first two exchanged: together these make every order. Another
    order rounds differently, so what the rounding of the Gramian alone does to the direction (to
    the length that IMTLG gives it, say, where gradients are nearly parallel) is allowed many times
    over, up to a limit.
    """
    weighting, positions = build(range(case.m)), torch.arange(case.m)
    exchanged = torch.cat([positions[:2].flip(0), positions[2:]])
    usual = statistics(case.gramian, losses_of(case))
    for state in pasts(weighting, usual):
        before = Outcome(case.jacobian, weighting(usual, state))
        scale = max(NEGLIGIBLE * float(case.norms.mean()), before.size)
        rounding = _rounding(weighting, case, before.output.weights, state)
        scale = max(scale, min(rounding, LARGEST_ROUNDING * scale) / DIRECTION_TOL)
        for order in (positions.roll(1), exchanged):
            permuted = statistics(case.gramian[order][:, order], losses_of(case)[order])
            moved = _in_order(state, weighting.state_axes, order)
            after = case.jacobian[order].T @ weighting(permuted, moved).weights
            told = f"in the order {order.tolist()}"
            assert_same_direction(after, before.direction, scale, told)


def _rounding(weighting: Weighting, case: Case, weights: Tensor, state: State) -> float:
    """How far the direction may move by the rounding of the Gramian."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for _ in range(3):
        signs = torch.randn(case.m, case.m, generator=generator, dtype=torch.float64)
        rounded = statistics(case.gramian * (1.0 + EPS * (signs + signs.T).sign()), losses_of(case))
        moved = case.jacobian.T @ (weighting(rounded, state).weights - weights)
        largest = max(largest, CONDITION * float(moved.norm()))
    return largest


def _in_order(state: State, axes: Mapping[str, int], order: Tensor) -> State:
    moved = dict(state)
    for key, count in axes.items():
        for axis in range(count):
            moved[key] = moved[key].index_select(axis, order)
    return moved


def check_zero_at_stationarity(build: Build, case: Case) -> None:
    """d = 0 where zero is in the convex hull of the gradients."""
    if case.stationarity != "none":
        for found in outcomes(build, case):
            _check_vanishes(found)


def check_idempotent(build: Build, case: Case) -> None:
    """d = g for copies of one gradient g, whichever of them are active and whatever came before."""
    row = case.jacobian[int(case.norms.argmax())]
    if not row.any():
        return  # no gradient
    weighting, positions = build(range(case.m)), torch.arange(case.m)
    gramian = (row @ row).expand(case.m, case.m)
    states = pasts(weighting, statistics(case.gramian, losses_of(case)))
    masks = (positions >= 0, positions % 3 != 1, positions != 0)
    for active, state in itertools.product([mask for mask in masks if mask.any()], states):
        weights = weighting(statistics(gramian, losses_of(case), active), state).weights
        total = float(weights.sum())
        assert abs(total - 1.0) <= IDEMPOTENT_TOL * float(weights.abs().sum()), (
            f"of copies of one gradient it makes {total!r} times that gradient"
        )


GUARANTEES: dict[Guarantee, Callable[[Build, Case], None]] = {
    Guarantee.NON_CONFLICTING: check_non_conflicting,
    Guarantee.NON_CONFLICTING_IF_INDEPENDENT: check_non_conflicting_if_independent,
    Guarantee.SIMPLEX: check_simplex,
    Guarantee.SCALE_EQUIVARIANT: check_scale_equivariant,
    Guarantee.POSITIVELY_HOMOGENEOUS: check_positively_homogeneous,
    Guarantee.PERMUTATION_EQUIVARIANT: check_permutation_equivariant,
    Guarantee.ZERO_AT_STATIONARITY: check_zero_at_stationarity,
    Guarantee.IDEMPOTENT: check_idempotent,
}
"""Guarantee -> its check."""
