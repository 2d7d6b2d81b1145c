"""One check per guarantee: `check(build, case)` raises AssertionError where the promise breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moopt.status import SolverStatus
from moopt.testing.directions import (
    DESCENT_TOL,
    DIRECTION_TOL,
    EPS,
    ROUNDING,
    SIMPLEX_TOL,
    STATIONARY_TOL,
    Build,
    assert_parallel,
    assert_same_direction,
    losses_of,
    size,
    statistics,
    weigh,
)
from moopt.testing.sampling import Case
from moopt.weightings import Guarantee, Weighting

CONDITION = 100.0
"""How many roundings of the entries of a Gramian the solution of an ill-posed problem may differ
by: the products of two orders differ by a few."""

LARGEST_ROUNDING = 1e-3
"""And never by more than this, relative to the size: past it a method amplifies its rounding."""

NEGLIGIBLE = 1e-7
"""Weights below this, beside those of the mean, are the rounding of weights that are zero."""

INDEPENDENT = 1e-8
"""Smallest eigenvalue of the cosines above which gradients are independent beyond any doubt."""


IDEMPOTENT_TOL = 1e-12
"""Rounding of a sum of weights, and of the cosine of two equal gradients, which divides it."""


def check_simplex(build: Build, case: Case) -> None:
    """Weights >= 0 that sum to one."""
    weights = weigh(build, case).weights
    assert (weights >= 0).all()
    assert abs(float(weights.sum()) - 1.0) <= SIMPLEX_TOL


def _check_descent(jacobian: Tensor, weights: Tensor) -> None:
    direction = jacobian.T @ weights
    norms = jacobian.norm(dim=-1)
    slack = DESCENT_TOL * float(direction.norm()) + ROUNDING * size(jacobian, weights)
    assert (jacobian @ direction >= -norms * slack).all()


def check_non_conflicting(build: Build, case: Case) -> None:
    """Componentwise, with a certificate; at a stationary point the direction must vanish instead.

    The certificate may be missing only where the terms of the direction cancel so far that the
    rounding of the Gramian alone exceeds the tolerance of the gap.
    """
    output = weigh(build, case)
    status = SolverStatus.CONVERGED if output.result is None else int(output.result.status)
    if status == SolverStatus.DEGENERATE:
        length = float((case.jacobian.T @ output.weights).norm())
        assert length <= STATIONARY_TOL * size(case.jacobian, output.weights)
        return
    if output.result is not None and status != SolverStatus.CONVERGED:
        assert status == SolverStatus.MAX_ITER
        length = float((case.jacobian.T @ output.weights).norm())
        assert float(output.result.gap) * length <= ROUNDING * size(case.jacobian, output.weights)
    _check_descent(case.jacobian, output.weights)


def check_non_conflicting_if_independent(build: Build, case: Case) -> None:
    """Independent rows must be certified, and certified rows must descend."""
    output = weigh(build, case)
    status = SolverStatus.CONVERGED if output.result is None else int(output.result.status)
    norms = case.norms
    if (norms > 0).all():
        cosines = case.gramian / norms[:, None] / norms
        if float(torch.linalg.eigvalsh(cosines)[0]) > INDEPENDENT:
            assert status == SolverStatus.CONVERGED
    if status == SolverStatus.CONVERGED:
        _check_descent(case.jacobian, output.weights)


def check_scale_equivariant(build: Build, case: Case) -> None:
    """Powers of two change no mantissa, so that rounding flips no decision (a rank, a vertex)."""
    factors = 2.0 ** torch.tensor([(5 * i) % 17 - 8 for i in range(case.m)], dtype=torch.float64)
    weighting = build(range(case.m))
    rescaled = case.jacobian * factors[:, None]
    gramian = case.gramian * factors[:, None] * factors
    before = weigh(build, case).weights
    after = weighting(statistics(gramian, losses_of(case) * factors)).weights
    sizes = (size(case.jacobian, before), size(rescaled, after))
    assert_parallel(case.jacobian.T @ before, rescaled.T @ after, sizes)


def check_positively_homogeneous(build: Build, case: Case) -> None:
    """d(c J) = c d(J), for three factors c > 0: powers of two, as for the scales of single rows."""
    weighting = build(range(case.m))
    before = weigh(build, case).weights
    for factor in (2.0**-7, 2.0, 2.0**20):
        scaled = statistics(case.gramian * factor**2, losses_of(case) * factor)
        after = weighting(scaled).weights
        scale = max(size(case.jacobian, before), size(case.jacobian, after))
        assert_same_direction(case.jacobian.T @ after, case.jacobian.T @ before, scale)


def check_permutation_equivariant(build: Build, case: Case) -> None:
    """The order of the objectives does not matter, at the first step and at the second.

    Shifted by one, and with the first two exchanged: together these make every order. Another
    order rounds differently, so what the rounding of the Gramian alone does to the direction (to
    the length that IMTLG gives it, say, where gradients are nearly parallel) is allowed many times
    over, up to a limit.
    """
    weighting, positions = build(range(case.m)), torch.arange(case.m)
    exchanged = positions.clone()
    exchanged[:2] = positions[:2].flip(0)
    least = NEGLIGIBLE * float(case.norms.mean())
    first = weighting.initial_state(case.m)
    for state in (first, weigh(build, case).state) if weighting.state_axes else (first,):
        before = weighting(statistics(case.gramian, losses_of(case)), state).weights
        scale = max(least, size(case.jacobian, before))
        scale = max(scale, _rounding(weighting, case, before, state, LARGEST_ROUNDING * scale))
        for order in (positions.roll(1), exchanged):
            permuted = statistics(case.gramian[order][:, order], losses_of(case)[order])
            moved = _in_order(state, weighting.state_axes, order)
            after = weighting(permuted, moved).weights
            assert_same_direction(case.jacobian[order].T @ after, case.jacobian.T @ before, scale)


def _rounding(
    weighting: Weighting, case: Case, weights: Tensor, state: dict[str, Tensor], limit: float
) -> float:
    """What rounding the Gramian may do to the direction, as a size that `DIRECTION_TOL` is of."""
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for _ in range(3):
        signs = torch.randn(case.m, case.m, generator=generator, dtype=torch.float64)
        rounded = statistics(case.gramian * (1.0 + EPS * (signs + signs.T).sign()), losses_of(case))
        moved = case.jacobian.T @ (weighting(rounded, state).weights - weights)
        largest = max(largest, CONDITION * float(moved.norm()))
    return min(largest, limit) / DIRECTION_TOL


def _in_order(
    state: dict[str, Tensor], axes: Mapping[str, int], order: Tensor
) -> dict[str, Tensor]:
    moved = dict(state)
    for key, count in axes.items():
        for axis in range(count):
            moved[key] = moved[key].index_select(axis, order)
    return moved


def check_zero_at_stationarity(build: Build, case: Case) -> None:
    """d = 0 where zero is in the convex hull of the gradients."""
    if case.stationarity == "none":
        return
    weights = weigh(build, case).weights
    length = float((case.jacobian.T @ weights).norm())
    assert length <= STATIONARY_TOL * size(case.jacobian, weights)


def check_idempotent(build: Build, case: Case) -> None:
    """d = g for copies of one gradient g, whichever of them are active and whatever came before."""
    row = case.jacobian[int(case.norms.argmax())]
    if not row.any():
        return  # no gradient
    weighting, positions = build(range(case.m)), torch.arange(case.m)
    gramian = (row @ row).expand(case.m, case.m)
    past = [weigh(build, case).state] if weighting.state_axes else []
    for active in (positions >= 0, positions % 3 != 1, positions != 0):
        if not active.any():
            continue
        copies = statistics(gramian, losses_of(case), active)
        for state in (None, *past):
            weights = weighting(copies, state).weights
            assert abs(float(weights.sum()) - 1.0) <= IDEMPOTENT_TOL * float(weights.abs().sum())


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
