"""gates: what a faster form of an operation must give before it is used on a machine.

It may meet a compiler, a processor or a card that nobody has tried, and a wrong step would be
silent. Each gate says in words what differs from exact sums, and nothing if nothing does.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from moopt.kernels.gathered import rounding
from moopt.kernels.metric import with_metric
from moopt.kernels.min_norm.reference import min_norm_reference
from moopt.kernels.pieces import Position, first_in, positions
from moopt.kernels.table import PART, is_plain
from moopt.kernels.tolerances import CERTIFIED
from moopt.kernels.updates import update_
from moopt.records.status import SolverStatus

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def gramian_gate(
    form: Callable[[list[Position], int], tuple[Tensor, float]],
    device: torch.device,
    lengths: Mapping[int, int],
    dtypes: Collection[torch.dtype] = DTYPES,
) -> str:
    """What a form of the Gramian gives that is not within the rounding it states.

    Args:
        form: of the checked positions and m; the Gramian and its noise.
        device: where the rows are made.
        lengths: for each number of rows that is tried, the length of the longest tensor.
        dtypes: of the entries; those that are not among `DTYPES` are left out.
    """
    for m, longest in lengths.items():
        for dtype in filter(dtypes.__contains__, DTYPES):
            rows = probe_rows(m, dtype, device, longest)
            found, noise = form(positions(rows, caller="gramian"), m)
            wide = dense(rows)
            told = _wrong(found, noise, wide, wide)
            if told:
                return f"m = {m}, {dtype}: {told}"
    return ""


def general_gramian_gate(
    form: Callable[[list[Position], int, int | None], tuple[Tensor, float]],
    device: torch.device,
    lengths: Mapping[int, int],
    dtypes: Collection[torch.dtype] = DTYPES,
    *,
    cross: bool,
    metric: Collection[torch.dtype],
) -> str:
    """As `gramian_gate`, between rows and a different number of others, or in a metric.

    Args:
        form: of the checked positions, m, and the number of others, or None without; the others
            come behind the rows in each position, and then the metric.
        device: where the rows are made.
        lengths: for each number of rows that is tried, the length of the longest tensor.
        dtypes: of the entries; those that are not among `DTYPES` are left out.
        cross: whether there are others.
        metric: the dtypes of the metrics that are tried; without one, none is used.
    """
    for m, longest in lengths.items():
        for dtype in filter(dtypes.__contains__, DTYPES):
            for kind in metric or (None,):
                k = max(1, m - 1) if cross else None
                rows = probe_rows(m + (k or 0), dtype, device, longest)
                checked = positions(rows, caller="gramian")
                wide = dense(rows)
                if kind is not None:
                    entries = probe_metric(rows, kind)
                    checked = with_metric(checked, rows, entries)
                    shaped = [[p[-1] for p in checked]]
                    wide = wide * dense(shaped).sqrt()
                found, noise = form(checked, m, k)
                told = _wrong(found, noise, wide[:m], wide[m:] if cross else wide)
                if told:
                    return f"m = {m}, k = {k}, {dtype}, metric {kind}: {told}"
    return ""


def _wrong(found: Tensor, noise: float, left: Tensor, right: Tensor) -> str:
    """What is not within the rounding; the exact sums err by their own."""
    norms = left.norm(dim=1)[:, None] * right.norm(dim=1)
    error = ((found - left @ right.T).abs() / norms).max().item()
    if error <= noise + rounding(left.shape[1] + 8, torch.float64):
        return ""
    return f"an inner product is wrong by {error:.1e} of the norms"


def combine_gate(
    form: Callable[[list[Position], Tensor], list[Position]],
    device: torch.device,
    widths: Iterable[int],
    dtypes: Collection[torch.dtype] = DTYPES,
    *,
    truncates: Collection[torch.dtype] = (),
) -> str:
    """What a form of the combination writes that is not rounded once, to the nearest.

    Args:
        form: of the checked positions and the weights; what it leaves to the reference.
        device: where the rows are made.
        widths: the numbers of rows that are tried.
        dtypes: as for `gramian_gate`.
        truncates: the dtypes into which the machine does not round to the nearest.
    """
    for m in widths:
        for dtype in filter(dtypes.__contains__, DTYPES):
            rows = probe_rows(m, dtype, device, PART + 40)
            weights = torch.linspace(-1.0, 2.0, m, dtype=torch.float64, device=device)
            wide = dense(rows)
            exact, size = weights @ wide, weights.abs() @ wide.abs()
            checked = positions(rows, caller="combine_")
            plain = [position for position in checked if is_plain(position)]
            if form(checked, weights) != [p for p in checked if not is_plain(p)]:
                return f"m = {m}, {dtype}: a position was left out"
            kept = [is_plain(p) for p in checked for _ in range(first_in(p).numel())]
            found = torch.cat([first_in(p).double().flatten() for p in plain])
            # One rounding into the dtype, and those of the sum.
            last_place = 1.0 if dtype in truncates else 0.51
            summed = torch.float32 if dtype.itemsize == 2 else torch.float64
            allowed = exact.abs() * torch.finfo(dtype).eps * last_place + 1e-44
            allowed += size * rounding(m, summed) * 4
            wrong = ((found - exact[kept]).abs() - allowed[kept]).max().item()
            if not wrong <= 0.0:
                return f"m = {m}, {dtype}: an entry is wrong by {wrong:.1e} more than its rounding"
    return ""


def update_gate(
    form: Callable[[list[Position], int, Tensor, Tensor], list[int]],
    device: torch.device,
    widths: Iterable[int],
    dtypes: Collection[torch.dtype] = DTYPES,
    *,
    truncates: Collection[torch.dtype] = (),
) -> str:
    """What a form of the combination with an update writes that is not the definition's.

    Args:
        form: of the checked positions, how many tensors of each stand before the rows, the weights
            and the numbers; which positions it leaves to the reference.
        device: where the rows are made.
        widths: the numbers of rows that are tried.
        dtypes: as for `gramian_gate`.
        truncates: the dtypes into which the machine does not round to the nearest.
    """
    for m in widths:
        for dtype in filter(dtypes.__contains__, DTYPES):
            for held in (1, 2, 3, 4):
                checked = _update_case(m, dtype, device, held)
                numbers = _NUMBERS[held > 2][: len(checked)]
                weights = torch.linspace(-1.0, 2.0, m, dtype=torch.float64)
                expected = [
                    _updated(position, held, weights.tolist(), own.tolist())
                    for position, own in zip(checked, numbers, strict=True)
                ]
                left = form(checked, held, weights.to(device), numbers.to(device))
                if left != [t for t, position in enumerate(checked) if not is_plain(position)]:
                    return f"m = {m}, {dtype}, {held - 1} states: a position was left out"
                for t, (position, exact) in enumerate(zip(checked, expected, strict=True)):
                    for found, (value, error) in zip(position[:held], exact, strict=True):
                        if t in left:
                            continue
                        assert found is not None
                        last_place = 1.0 if dtype in truncates else 0.51
                        allowed = error + value.abs() * torch.finfo(dtype).eps * last_place
                        wrong = ((found.double() - value).abs() - allowed).flatten()
                        if len(wrong) and not wrong.max().item() <= 1e-44:
                            return (
                                f"m = {m}, {dtype}, {held - 1} states: an entry is wrong by"
                                f" {wrong.max().item():.1e} more than its rounding"
                            )
    return ""


# By parameter, as `moopt.kernels.combine_update.SGD` and `ADAM` name them.
_NUMBERS = (
    torch.tensor(
        [
            [0.1, 0.9, 0.0, 0.01, 1.0, 0.0],
            [0.2, 0.8, 0.3, 0.0, 0.0, 0.0],
            [0.3, 0.9, 0.5, 0.1, 0.0, 1.0],
            [0.1, 0.5, 0.0, 0.0, 1.0, 1.0],
            [0.1, 0.9, 0.1, 0.02, 0.0, 0.0],
            [0.1, 0.9, 0.0, 0.01, 1.0, 0.0],
        ],
        dtype=torch.float64,
    ),
    torch.tensor(
        [
            [0.01, 0.9, 0.999, 1e-8, 0.0, 0.1, 1.0, 0.0],
            [0.02, 0.8, 0.99, 1e-8, 0.1, 0.0, 2.0, 0.0],
            [0.03, 0.9, 0.95, 1e-6, 0.0, 0.0, 30.0, 1.0],
            [0.01, 0.0, 0.9, 1e-8, 0.2, 0.0, 4.0, 1.0],
            [0.05, 0.5, 0.999, 1e-3, 0.0, 0.3, 5.0, 0.0],
            [0.01, 0.9, 0.999, 1e-8, 0.0, 0.1, 6.0, 0.0],
        ],
        dtype=torch.float64,
    ),
)


def _update_case(m: int, dtype: torch.dtype, device: torch.device, held: int) -> list[Position]:
    """Positions of a parameter, its states and m rows, of moderate sizes."""
    generator = torch.Generator().manual_seed(held)
    rows = probe_rows(m, dtype, device, PART + 40, spread=8.0)
    checked = positions(rows, caller="combine_update_")
    for position in checked:
        like = first_in(position)
        for k in range(held):
            drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
            drawn = drawn if k < 2 else drawn.square() + 0.1
            position.insert(k, torch.empty_like(like).copy_(drawn))
    return checked


def _updated(
    position: Position, held: int, weights: Sequence[float], numbers: Sequence[float]
) -> list[tuple[Tensor, Tensor]]:
    """The parameter and each state after the step in float64, with how far rounding may lead."""
    own = [g.double() for g in position[:held] if g is not None]
    present = [
        (w, g.double()) for w, g in zip(weights, position[held:], strict=True) if g is not None
    ]
    d = torch.stack([w * g for w, g in present]).sum(0)
    size = torch.stack([abs(w) * g.abs() for w, g in present]).sum(0)
    eps = torch.finfo(torch.promote_types(first_in(position).dtype, torch.float32)).eps
    # Rounding, of the update too, as if it were one of d, in terms that cancel.
    error = eps * ((len(present) + 3) * size + 64.0 * torch.stack(own).abs().sum(0))

    def after(along: Tensor) -> list[Tensor]:
        copies = [g.clone() for g in own]
        update_(copies[0], copies[1:], along.clone(), numbers)
        return copies

    return [
        (
            exact,
            torch.maximum((below - exact).abs(), (above - exact).abs())
            + eps * (8.0 * g.abs() + 2.0 * exact.abs()),
        )
        for exact, below, above, g in zip(
            after(d), after(d - error), after(d + error), own, strict=True
        )
    ]


def min_norm_gate(
    form: Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]],
    device: torch.device,
    widths: Iterable[int] = (1, 2, 3, 8, 17, 64),
) -> str:
    """What a form of the minimum-norm point gives that the reference does not.

    Args:
        form: of Gramians `[K, m, m]`; weights, status, gap, number of pivots.
        device: where the Gramians are made.
        widths: the numbers of rows that are tried.
    """
    generator = torch.Generator().manual_seed(0)
    for m in widths:
        rows = torch.randn(6, m, m + 2, generator=generator, dtype=torch.float64)
        rows[1] *= 10.0 ** torch.linspace(-8.0, 8.0, m, dtype=torch.float64)[:, None]
        rows[2, 0] = -rows[2, 1:].sum(0)  # stationary; a zero row where m = 1
        rows[3, 0] = 0.0
        rows[4] += 5.0  # no conflict
        gramian = (rows @ rows.mT).to(device)
        gramian[5, 0, m - 1] = math.nan
        weights, status, gap, _ = form(gramian)
        expected = min_norm_reference(gramian, enumerate_faces=False)
        if not torch.equal(status, expected[1]):
            return f"m = {m}: the status is {status.tolist()}, not {expected[1].tolist()}"
        if not bool((gap[status == SolverStatus.CONVERGED] <= CERTIFIED).all()):
            return f"m = {m}: gaps of {gap.tolist()}"
        wrong = (weights - expected[0]).abs().amax(-1)
        zero_row = torch.arange(6, device=device) == 3
        if not bool((wrong[(status != SolverStatus.DEGENERATE) | zero_row] <= 1e-6).all()):
            return f"m = {m}: weights are wrong by {wrong.tolist()}"
    return ""


def probe_rows(
    m: int, dtype: torch.dtype, device: torch.device, longest: int, *, spread: float = 1e30
) -> list[list[Tensor | None]]:
    """m rows with every kind of border.

    Empty and one-element tensors, a tail behind a block, several parts, entries that start between
    two aligned addresses, that lie in another order in memory, and that are missing; of sizes from
    1 / spread to spread where the dtype has them, the same for a whole row.
    """
    generator = torch.Generator().manual_seed(m)
    shapes = [(0,), (1,), (1025,), (63,), (longest,), (7, 30)]
    rows: list[list[Tensor | None]] = []
    for i in range(m):
        size = 1.0 if dtype == torch.float16 else spread ** (i % 3 - 1)
        tensors = [
            torch.randn(shape, generator=generator).double().mul_(size).to(dtype).to(device)
            for shape in shapes
        ]
        off = torch.empty(64, dtype=dtype, device=device)[1:]
        tensors[3] = off.copy_(tensors[3])
        tensors[5] = tensors[5].t().contiguous().t()
        rows.append([*tensors])
    if m > 1:
        rows[1][2] = rows[0][0] = None
    return rows


def probe_metric(rows: Sequence[Sequence[Tensor | None]], dtype: torch.dtype) -> list[Tensor]:
    """A metric for `probe_rows`: of wide range, with zeros, one value, unaligned, transposed."""
    generator = torch.Generator().manual_seed(len(rows))
    metric = []
    reach = 3.0 if dtype == torch.float16 else 20.0
    for column in zip(*rows, strict=True):
        like = next(g for g in column if g is not None)
        powers = reach * (2.0 * torch.rand(like.shape, generator=generator).double() - 1.0)
        entries = torch.where(powers.abs() < 0.1 * reach, 0.0, 10.0**powers)
        metric.append(entries.to(dtype).to(like.device))
    off = torch.empty(metric[4].numel() + 1, dtype=dtype, device=metric[4].device)[1:]
    metric[2] = metric[2].new_full((), 3.0)
    metric[4] = off.copy_(metric[4])
    metric[5] = metric[5].t().contiguous().t()
    return metric


def dense(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """float64 `[m, n]`, zeros where an entry is missing."""
    first = [next(g for g in column if g is not None) for column in zip(*rows, strict=True)]
    return torch.stack(
        [
            torch.cat(
                [
                    (torch.zeros_like(like) if g is None else g).double().flatten()
                    for g, like in zip(row, first, strict=True)
                ]
            )
            for row in rows
        ]
    )
