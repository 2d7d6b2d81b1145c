"""The check that the order of the objectives does not matter."""

from collections.abc import Mapping

import torch
from torch import Tensor

from moopt.testing.directions import (
    DIRECTION_TOL,
    EPS,
    Build,
    assert_same_direction,
    losses_of,
    pasts,
    size,
    statistics,
)
from moopt.testing.sampling import Case
from moopt.weightings import Weighting

CONDITION = 100.0
"""How many roundings of the entries of a Gramian the solution of an ill-posed problem may differ
by: the products of two orders differ by a few."""

LARGEST_ROUNDING = 1e-3
"""And never by more than this, relative to the size: past it a method amplifies its rounding."""

NEGLIGIBLE = 1e-7
"""Weights below this, beside those of the mean, are the rounding of weights that are zero."""


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
    usual = statistics(case.gramian, losses_of(case))
    for state in pasts(weighting, usual):
        before = weighting(usual, state).weights
        scale = max(least, size(case.jacobian, before))
        scale = max(scale, _rounding(weighting, case, before, state, LARGEST_ROUNDING * scale))
        for order in (positions.roll(1), exchanged):
            permuted = statistics(case.gramian[order][:, order], losses_of(case)[order])
            moved = _in_order(state, weighting.state_axes, order)
            after = case.jacobian[order].T @ weighting(permuted, moved).weights
            told = f"in the order {order.tolist()}"
            assert_same_direction(after, case.jacobian.T @ before, scale, told)


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
