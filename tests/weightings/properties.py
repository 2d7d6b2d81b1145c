"""The properties of a weighting as checks: `check(build, case)` raises AssertionError.

One check per guarantee (`GUARANTEES`) and per rule of the contract (`CONTRACT`). The same
functions run on the library's methods, on planted violators and as counterexamples of guarantees
that are not claimed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from moopt.record import StepStatistics
from moopt.status import SolverStatus
from moopt.weightings import Guarantee, WeightingOutput
from tests.cases import Case
from tests.weightings.settings import Build

EPS = torch.finfo(torch.float64).eps

DESCENT_TOL = 1e-9
"""g_i . d >= -DESCENT_TOL ||g_i|| ||d||: the promise of the documentation."""

ROUNDING = 64 * EPS
"""Rounding of an inner product g_i . sum_j w_j g_j, relative to ||g_i|| sum_j |w_j| ||g_j||."""

DIRECTION_TOL = 1e-6
"""Two directions agree, relative to sum_j |w_j| ||g_j||: the square root of the Gramian's rounding
(1.5e-8) is what a Gramian can tell about a direction; times 64 for its condition."""

STATIONARY_TOL = 1e-7
"""||d|| relative to sum_j |w_j| ||g_j|| that counts as zero; the solver itself stops at 6e-8."""

SIMPLEX_TOL = 1e-12
"""Rounding of a sum of up to 256 weights."""

INDEPENDENT = 1e-8
"""Smallest eigenvalue of the cosines above which gradients are independent beyond any doubt."""


def losses_of(case: Case) -> Tensor:
    """Positive losses that differ between objectives by up to a factor of ten."""
    return torch.linspace(1.0, 10.0, case.m, dtype=torch.float64).flip(0)


def statistics(
    gramian: Tensor, losses: Tensor | None = None, active: Tensor | None = None, **other
) -> StepStatistics:
    names = tuple(f"objective {i}" for i in range(gramian.shape[-1]))
    return StepStatistics(gramian=gramian, losses=losses, names=names, active=active, **other)


def weigh(build: Build, case: Case, active: Tensor | None = None) -> WeightingOutput:
    weighting = build(range(case.m))
    return weighting(statistics(case.gramian, losses_of(case), active))


def size(jacobian: Tensor, weights: Tensor) -> float:
    """sum_j |w_j| ||g_j||: the length the direction would have without any cancellation."""
    return float((weights.abs() * jacobian.norm(dim=-1)).sum())


def assert_same_direction(first: Tensor, second: Tensor, scale: float) -> None:
    difference = float((first - second).norm())
    assert difference <= DIRECTION_TOL * scale, (difference, scale)


def assert_parallel(first: Tensor, second: Tensor, sizes: tuple[float, float]) -> None:
    """Equal up to a positive factor; a direction that is rounding of its terms counts as zero."""
    lengths = (float(first.norm()), float(second.norm()))
    vanish = [n <= STATIONARY_TOL * s for n, s in zip(lengths, sizes, strict=True)]
    if any(vanish):
        assert all(n <= DIRECTION_TOL * s for n, s in zip(lengths, sizes, strict=True))
        return
    scale = max(s / n for n, s in zip(lengths, sizes, strict=True))
    assert_same_direction(first / lengths[0], second / lengths[1], scale)


# ---------------------------------------------------------------- guarantees


def check_simplex(build: Build, case: Case) -> None:
    weights = weigh(build, case).weights
    assert (weights >= 0).all()
    assert abs(float(weights.sum()) - 1.0) <= SIMPLEX_TOL


def _check_descent(jacobian: Tensor, weights: Tensor) -> None:
    direction = jacobian.T @ weights
    norms = jacobian.norm(dim=-1)
    slack = DESCENT_TOL * float(direction.norm()) + ROUNDING * size(jacobian, weights)
    assert (jacobian @ direction >= -norms * slack).all()


def check_non_conflicting(build: Build, case: Case) -> None:
    """Whenever the gap is met; at a stationary point the direction must vanish instead."""
    output = weigh(build, case)
    status = SolverStatus.CONVERGED if output.result is None else int(output.result.status)
    if status == SolverStatus.DEGENERATE:
        length = float((case.jacobian.T @ output.weights).norm())
        assert length <= STATIONARY_TOL * size(case.jacobian, output.weights)
        return
    assert status == SolverStatus.CONVERGED
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
    """Powers of two change no mantissa, so that a rank decision cannot flip by rounding."""
    factors = 2.0 ** torch.tensor([(5 * i) % 17 - 8 for i in range(case.m)], dtype=torch.float64)
    weighting = build(range(case.m))
    rescaled = case.jacobian * factors[:, None]
    gramian = case.gramian * factors[:, None] * factors
    before = weigh(build, case).weights
    after = weighting(statistics(gramian, losses_of(case) * factors)).weights
    sizes = (size(case.jacobian, before), size(rescaled, after))
    assert_parallel(case.jacobian.T @ before, rescaled.T @ after, sizes)


def check_positively_homogeneous(build: Build, case: Case) -> None:
    weighting = build(range(case.m))
    before = weigh(build, case).weights
    for factor in (2.0**-7, 3.0, 1e6):
        scaled = statistics(case.gramian * factor**2, losses_of(case) * factor)
        after = weighting(scaled).weights
        scale = max(size(case.jacobian, before), size(case.jacobian, after))
        assert_same_direction(case.jacobian.T @ after, case.jacobian.T @ before, scale)


def check_permutation_equivariant(build: Build, case: Case) -> None:
    order = torch.tensor([(i * 7 + 3) % case.m for i in range(case.m)])
    if case.m % 7 == 0:
        order = torch.arange(case.m).flip(0)
    before = weigh(build, case).weights
    permuted = statistics(case.gramian[order][:, order], losses_of(case)[order])
    after = build(range(case.m))(permuted).weights
    scale = size(case.jacobian, before)
    assert_same_direction(case.jacobian[order].T @ after, case.jacobian.T @ before, scale)


def check_zero_at_stationarity(build: Build, case: Case) -> None:
    if case.stationarity == "none":
        return
    weights = weigh(build, case).weights
    length = float((case.jacobian.T @ weights).norm())
    assert length <= STATIONARY_TOL * size(case.jacobian, weights)


GUARANTEES: dict[Guarantee, Callable[[Build, Case], None]] = {
    Guarantee.NON_CONFLICTING: check_non_conflicting,
    Guarantee.NON_CONFLICTING_IF_INDEPENDENT: check_non_conflicting_if_independent,
    Guarantee.SIMPLEX: check_simplex,
    Guarantee.SCALE_EQUIVARIANT: check_scale_equivariant,
    Guarantee.POSITIVELY_HOMOGENEOUS: check_positively_homogeneous,
    Guarantee.PERMUTATION_EQUIVARIANT: check_permutation_equivariant,
    Guarantee.ZERO_AT_STATIONARITY: check_zero_at_stationarity,
}


# ---------------------------------------------------------------- contract


def _mask(case: Case) -> Tensor:
    """About two thirds active, at least one."""
    active = torch.tensor([i % 3 != 1 for i in range(case.m)])
    return active


def check_mask_equals_dropping(build: Build, case: Case) -> None:
    active = _mask(case)
    kept = active.nonzero().flatten()
    poisoned = case.gramian.clone()
    poisoned[~active] = float("nan")
    poisoned[:, ~active] = float("inf")
    losses = losses_of(case).masked_fill(~active, float("nan"))
    masked = build(range(case.m))(statistics(poisoned, losses, active)).weights
    assert (masked[~active] == 0).all()
    dropped = build(kept.tolist())(statistics(case.gramian[kept][:, kept], losses[kept])).weights
    rows = case.jacobian[kept]
    assert_same_direction(rows.T @ masked[kept], rows.T @ dropped, size(rows, dropped))


def check_nothing_active(build: Build, case: Case) -> None:
    weights = weigh(build, case, torch.zeros(case.m, dtype=torch.bool)).weights
    assert (weights == 0).all()


def check_types(build: Build, case: Case) -> None:
    output = weigh(build, case)
    assert output.weights.dtype == torch.float64
    assert output.weights.shape == (case.m,)
    assert output.weights.device == case.gramian.device
    assert not output.weights.requires_grad
    single = statistics(case.gramian.float(), losses_of(case))
    assert build(range(case.m))(single).weights.dtype == torch.float64
    if output.result is not None:
        assert output.result.status.dtype == torch.int64
        assert output.result.status.shape == output.result.gap.shape == ()


def check_batch(build: Build, case: Case) -> None:
    """Leading dimensions are independent parameter groups."""
    weighting = build(range(case.m))
    other = torch.eye(case.m, dtype=torch.float64) * float(case.norms.max().clamp_min(1.0)) ** 2
    groups = torch.stack([case.gramian, other])
    batched = weighting(statistics(groups, losses_of(case)))
    assert batched.weights.shape == (2, case.m)
    for gramian, weights in zip(groups, batched.weights, strict=True):
        alone = weighting(statistics(gramian, losses_of(case))).weights
        difference = weights - alone
        # Compared as directions: on dependent rows the weights themselves are not determined.
        length = float((difference @ gramian @ difference).clamp_min(0.0).sqrt())
        scale = float((alone.abs() * gramian.diagonal().sqrt()).sum())
        assert length <= DIRECTION_TOL * scale


def check_auxiliary_rows(build: Build, case: Case) -> None:
    """Extra rows get weight 0 and influence nothing."""
    m = case.m
    wide = torch.full((m + 2, m + 2), float("nan"), dtype=torch.float64)
    wide[:m, :m] = case.gramian
    plain = weigh(build, case).weights
    given = StepStatistics(
        gramian=wide,
        losses=losses_of(case),
        names=tuple(f"objective {i}" for i in range(m)),
        auxiliary=("a", "b"),
    )
    weights = build(range(m))(given).weights
    assert torch.equal(weights, torch.cat([plain, torch.zeros(2, dtype=torch.float64)]))


def check_determinism(build: Build, case: Case) -> None:
    """Bit for bit, and without writing to the input."""
    gramian = case.gramian
    given = statistics(gramian, losses_of(case), _mask(case))
    first, second = (build(range(case.m))(given).weights for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(gramian, case.gramian)


def check_state_round_trip(build: Build, case: Case) -> None:
    """The state is complete, flat, shaped as declared, and not changed in place."""
    weighting = build(range(case.m))
    initial = weighting.initial_state(case.m)
    assert set(initial) == set(weighting.state_axes)
    for key, axes in weighting.state_axes.items():
        assert initial[key].shape[:axes] == (case.m,) * axes
    first = statistics(case.gramian, losses_of(case))
    later = statistics(torch.eye(case.m, dtype=torch.float64), losses_of(case))
    weights, state, _ = weighting(first)
    assert torch.equal(weights, weighting(first, initial).weights)
    assert set(state) == set(initial)
    assert all(
        state[k].shape == initial[k].shape and state[k].dtype == initial[k].dtype for k in state
    )
    copy = {key: value.clone() for key, value in state.items()}
    once = weighting(later, state)
    assert all(torch.equal(state[key], copy[key]) for key in state)
    again = weighting(later, copy)
    assert torch.equal(once.weights, again.weights)
    assert all(torch.equal(once.state[key], again.state[key]) for key in state)


def check_non_finite(build: Build, case: Case) -> None:
    """No exception; finite weights; uniform and NON_FINITE where there is a solver."""
    active = _mask(case)
    on = active.nonzero().flatten()
    for value in (float("nan"), float("inf"), float("-inf")):
        for where in ((on[0], on[0]), (on[0], on[-1])):
            gramian = case.gramian.clone()
            gramian[where] = gramian[where[::-1]] = value
            output = build(range(case.m))(statistics(gramian, losses_of(case), active))
            assert torch.isfinite(output.weights).all()
            assert (output.weights[~active] == 0).all()
            if output.result is not None:
                assert int(output.result.status) == SolverStatus.NON_FINITE
                assert (output.weights[active] == output.weights[on[0]]).all()
                assert float(output.weights.sum()) > 1.0 - SIMPLEX_TOL
            for key, value_before in build(range(case.m)).initial_state(case.m).items():
                assert torch.equal(output.state[key], value_before)


CONTRACT: dict[str, Callable[[Build, Case], None]] = {
    "mask equals dropping": check_mask_equals_dropping,
    "nothing active": check_nothing_active,
    "types": check_types,
    "batch": check_batch,
    "auxiliary rows": check_auxiliary_rows,
    "determinism": check_determinism,
    "state round trip": check_state_round_trip,
    "non-finite": check_non_finite,
}


def dataclass_is_frozen(weighting_class: type) -> bool:
    """Whether the class follows the rule: a frozen, keyword-only dataclass."""
    return dataclasses.is_dataclass(weighting_class) and bool(
        weighting_class.__dataclass_params__.frozen  # type: ignore[attr-defined]
    )
