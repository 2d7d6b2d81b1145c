"""The gate of the fused step: what it must give before it is used on a machine."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from moopt.kernels.gates import DTYPES, dense, probe_rows
from moopt.kernels.gramian_min_norm.numbers import StepNumbers, kept_numbers, unpacked
from moopt.kernels.gramian_min_norm.reference import weigh_reference
from moopt.kernels.pieces import Rows, positions
from moopt.records.device_point import DevicePoint

GRAMIAN_TOL = 3e-6
"""Relative to the norms: the rounding of tiles of many float32 rows."""

WEIGHTS_TOL = 1e-4
"""What that makes of weights, as shares of the direction."""


def gramian_min_norm_gate(
    form: Callable[..., Tensor],
    device: torch.device,
    lengths: Mapping[int, int],
    dtypes: Collection[torch.dtype] = DTYPES,
    points: Iterable[DevicePoint] = DevicePoint,
) -> str:
    """What a form of the whole step gives that the reference does not, for the exact Gramian.

    Args:
        form: as `gramian_min_norm_triton`.
        device: where the rows are made.
        lengths: for each number of rows that is tried, the length of the longest tensor.
        dtypes: of the entries; those that are not among `DTYPES` are left out.
        points: which points are looked for.
    """
    for m, longest in lengths.items():
        for point in points:
            for what, rows, losses, settings in _cases(m, longest, point, dtypes, device):
                told = _told(form, rows, losses, settings | {"point": point})
                if told:
                    return f"m = {m}, {point.name}, {what}: {told}"
    return ""


def _cases(
    m: int,
    longest: int,
    point: DevicePoint,
    dtypes: Collection[torch.dtype],
    device: torch.device,
) -> Iterator[tuple[str, Rows, Tensor, dict[str, Any]]]:
    """Steps of every kind: what it is, its rows, losses and settings."""
    losses = torch.linspace(1.0, 2.0, m, dtype=torch.float64, device=device)
    plain: dict[str, Any] = {"inactive_tol": 1e-5, "eps": 1e-7}
    tried = [dtype for dtype in DTYPES if dtype in dtypes]
    for dtype in tried:
        yield str(dtype), probe_rows(m, dtype, device, longest), losses, plain
    # Of one dtype, since every other one is compiled by itself.
    like: dict[str, Any] = {"dtype": tried[0], "device": device}
    generator = torch.Generator().manual_seed(m)
    matrix = torch.randn(m, longest, generator=generator).to(**like)
    rows: list[list[Tensor | None]] = [[row] for row in matrix]
    yield "several programs", rows, losses, plain
    rows = [[row[: m + 1]] for row in matrix]
    yield "a scale", rows, losses, plain | {"scale": torch.tensor(4.0, device=device)}
    if point in (DevicePoint.CONE_OF_EACH, DevicePoint.CONE_OF_SUM):
        yield "a preference", rows, losses, plain | {"preference": losses.flip(0)}
    spoiled = losses.clone()
    spoiled[m - 1] = math.nan
    yield "a loss of NaN", rows, spoiled, plain
    yield "an unknown loss", rows, spoiled, plain | {"known": [True] * (m - 1) + [False]}
    yield "noise", [*rows[:-1], [1e-7 * matrix[-1, : m + 1]]], 1e7 * losses, plain
    yield "all noise", rows, losses, plain | {"eps": 1.0}
    if m > 1:
        opposite: list[list[Tensor | None]] = [[matrix[0, : m + 1]], [-matrix[0, : m + 1]]]
        yield "a stationary point", opposite + rows[2:], losses, plain
    if m > 2:
        # One pivot takes the shortest row alone, which raises another; of unit rows the first.
        stopped = torch.eye(m, m + 1, dtype=torch.float64) + 0.1
        stopped[0] = 10.0 * stopped.sum(0)
        stopped[1] *= 0.1
        stopped[2, 1] = -1.0
        yield "a fallback", [[row] for row in stopped.to(**like)], losses, plain | {"max_iter": 1}


def _told(form: Callable[..., Tensor], rows: Rows, losses: Tensor, settings: dict[str, Any]) -> str:
    """What differs in two runs one after the other."""
    m = len(losses)
    ours, theirs = (kept_numbers(m, losses.device) for _ in range(2))
    checked = positions(rows, caller="gramian_min_norm")
    found = [unpacked(form(checked, losses, ours, **settings), m) for _ in range(2)]
    wide = dense(rows)
    exact = wide @ wide.T
    scale = settings.get("scale")
    if scale is not None:
        exact = exact / scale / scale
    rest = {key: value for key, value in settings.items() if key != "scale"}
    expected = [unpacked(weigh_reference(exact, losses, theirs, **rest), m) for _ in range(2)]
    if not torch.equal(found[0].weights, found[1].weights):
        return "the weights of two runs differ"
    if not torch.equal(ours, theirs):
        return f"{ours.tolist()} is kept, not {theirs.tolist()}"
    return _differs(found[1], expected[1])


def _differs(found: StepNumbers, expected: StepNumbers) -> str:
    """Which numbers of a step are not the expected ones, but for rounding."""
    for name in ("losses", "active", "rises", "idle", "status", "descent", "fell_back", "steps"):
        pair = (getattr(x, name).nan_to_num(nan=-1.0) for x in (found, expected))
        if not torch.equal(*pair):
            return f"{name} is {getattr(found, name)}, not {getattr(expected, name)}"
    lengths = expected.gramian.diagonal().clamp_min(0.0).sqrt()
    outer = (lengths[:, None] * lengths).clamp_min(1e-300)
    if not bool(((found.gramian - expected.gramian).abs() / outer <= GRAMIAN_TOL).all()):
        return "an inner product is wrong"
    apart = (found.weights - expected.weights).abs() * lengths
    size = (expected.weights.abs() * lengths).sum()
    if not bool((apart <= WEIGHTS_TOL * size).all()):
        return f"weights are {found.weights.tolist()}, not {expected.weights.tolist()}"
    # Of a point that is zero up to rounding the gap is noise.
    for name in ("stationarity", "gap") if bool(expected.descent) else ("stationarity",):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if not torch.allclose(ours, theirs, atol=WEIGHTS_TOL, equal_nan=True):
            return f"{name} is {ours}, not {theirs}"
    return ""
