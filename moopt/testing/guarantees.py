"""One check per guarantee: `check(build, case)` raises AssertionError where the promise breaks."""

from collections.abc import Callable

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.solvers import min_norm_point
from moopt.testing.directions import (
    DESCENT_TOL,
    ROUNDING,
    SIMPLEX_TOL,
    STATIONARY_TOL,
    Build,
    assert_parallel,
    assert_same_direction,
    losses_of,
    outputs,
    pasts,
    size,
    statistics,
)
from moopt.testing.order import check_permutation_equivariant
from moopt.testing.sampling import Case
from moopt.weightings import Guarantee, WeightingOutput

INDEPENDENT = 1e-8
"""Smallest eigenvalue of the cosines above which gradients are independent beyond any doubt."""

CLEAR = 1e-4
"""Cosine with every unit gradient, times its length, of a direction that surely lowers them all."""

CERTIFIED = 1e-10
"""The gap that a certificate promises at most; a smaller one is no excuse for missing it."""

IDEMPOTENT_TOL = 1e-12
"""Rounding of a sum of weights, and of the cosine of two equal gradients, which divides it."""


def check_simplex(build: Build, case: Case) -> None:
    """Weights >= 0 that sum to one."""
    for weights, *_ in outputs(build, case):
        total = float(weights.sum())
        assert (weights >= 0).all(), f"a weight is negative: {weights.tolist()}"
        assert abs(total - 1.0) <= SIMPLEX_TOL, f"the weights sum to {total!r}, not to 1"


def _status(output: WeightingOutput) -> SolverStatus:
    """A method without a solver claims its promise of every direction."""
    return (
        SolverStatus.CONVERGED if output.result is None else SolverStatus(int(output.result.status))
    )


def _check_descent(jacobian: Tensor, weights: Tensor) -> None:
    direction = jacobian.T @ weights
    slack = DESCENT_TOL * float(direction.norm()) + ROUNDING * size(jacobian, weights)
    along = jacobian @ direction / jacobian.norm(dim=-1)
    along = along.where(jacobian.norm(dim=-1) > 0.0, 0.0)
    worst = int(along.argmin())
    assert along[worst] >= -slack, (
        f"the direction raises objective {worst}: g . d / ||g|| is {float(along[worst]):.3g}, and"
        f" ||d|| is {float(direction.norm()):.3g}"
    )


def _check_vanishes(jacobian: Tensor, weights: Tensor) -> None:
    length, scale = float((jacobian.T @ weights).norm()), size(jacobian, weights)
    assert length <= STATIONARY_TOL * scale, (
        f"the direction does not vanish: its length is {length:.3g}, that of its terms {scale:.3g}"
    )


def check_non_conflicting(build: Build, case: Case) -> None:
    """Componentwise, with a certificate; at a stationary point the direction must vanish instead.

    The certificate may be missing only where the terms of the direction cancel so far that the
    rounding of the Gramian alone exceeds the tolerance of the gap. And where the gradients clearly
    have a common descent direction, standing still does not count as one.
    """
    clear = _have_clear_descent(case)
    for output in outputs(build, case):
        status = _status(output)
        standing = not (case.jacobian.T @ output.weights).any()
        assert not (clear and (standing or status == SolverStatus.DEGENERATE)), (
            f"the direction is{' not' * (not standing)} zero and the status {status.name}, though"
            " the gradients have a common descent direction"
        )
        if status == SolverStatus.DEGENERATE:
            _check_vanishes(case.jacobian, output.weights)
            continue
        if output.result is not None and status != SolverStatus.CONVERGED:
            gap = max(float(output.result.gap), CERTIFIED)
            length = float((case.jacobian.T @ output.weights).norm())
            hidden = gap * length <= ROUNDING * size(case.jacobian, output.weights)
            excused = hidden and status == SolverStatus.MAX_ITER
            assert excused, (
                f"the solver ends with {status.name} and gap {gap:.3g} on a well-posed problem"
            )
        _check_descent(case.jacobian, output.weights)


def _have_clear_descent(case: Case) -> bool:
    """Whether -x lowers every objective, x the shortest vector in the hull of unit gradients."""
    if not (case.norms > 0).all():
        return False
    unit = case.jacobian / case.norms[:, None]
    shortest = unit.T @ min_norm_point(unit @ unit.T).weights
    return float((unit @ shortest).min()) > CLEAR


def check_non_conflicting_if_independent(build: Build, case: Case) -> None:
    """Independent rows must be certified, and certified rows must descend."""
    norms = case.norms
    independent = False
    if (norms > 0).all():
        cosines = case.gramian / norms[:, None] / norms
        independent = float(torch.linalg.eigvalsh(cosines)[0]) > INDEPENDENT
    for output in outputs(build, case):
        certified = _status(output) == SolverStatus.CONVERGED
        assert certified or not independent, (
            f"the gradients are independent, but the status is {_status(output).name}"
        )
        if certified:
            _check_descent(case.jacobian, output.weights)


def check_scale_equivariant(build: Build, case: Case) -> None:
    """Powers of two change no mantissa, so that rounding flips no decision (a rank, a vertex)."""
    factors = 2.0 ** torch.tensor([(5 * i) % 17 - 8 for i in range(case.m)], dtype=torch.float64)
    rescaled = case.jacobian * factors[:, None]
    pairs = zip(outputs(build, case), outputs(build, case, factors), strict=True)
    for (before, *_), (after, *_) in pairs:
        sizes = (size(case.jacobian, before), size(rescaled, after))
        told = "for rescaled objectives"
        assert_parallel(case.jacobian.T @ before, rescaled.T @ after, sizes, told)


def check_positively_homogeneous(build: Build, case: Case) -> None:
    """d(c J) = c d(J), for three factors c > 0: powers of two, as for the scales of single rows."""
    usual = outputs(build, case)
    for factor in (2.0**-7, 2.0, 2.0**20):
        factors = torch.full((case.m,), factor, dtype=torch.float64)
        for (before, *_), (after, *_) in zip(usual, outputs(build, case, factors), strict=True):
            scale = max(size(case.jacobian, before), size(case.jacobian, after))
            told = f"for {factor:g} times the gradients, divided by that,"
            assert_same_direction(case.jacobian.T @ after, case.jacobian.T @ before, scale, told)


def check_zero_at_stationarity(build: Build, case: Case) -> None:
    """d = 0 where zero is in the convex hull of the gradients."""
    if case.stationarity == "none":
        return
    for weights, *_ in outputs(build, case):
        _check_vanishes(case.jacobian, weights)


def check_idempotent(build: Build, case: Case) -> None:
    """d = g for copies of one gradient g, whichever of them are active and whatever came before."""
    row = case.jacobian[int(case.norms.argmax())]
    if not row.any():
        return  # no gradient
    weighting, positions = build(range(case.m)), torch.arange(case.m)
    gramian = (row @ row).expand(case.m, case.m)
    states = pasts(weighting, statistics(case.gramian, losses_of(case)))
    for active in (positions >= 0, positions % 3 != 1, positions != 0):
        if not active.any():
            continue
        copies = statistics(gramian, losses_of(case), active)
        for state in states:
            weights = weighting(copies, state).weights
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
