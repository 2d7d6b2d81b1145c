"""Do TorchJD's own properties of an aggregator hold on this library's weightings?

    python -m benchmarks.peer_properties

The properties that TorchJD tests its aggregators for, on matrices defined as in its tests: normal
ones at scales 0 to 1e15, and strongly, strictly weakly and non-weakly stationary ones, of float32
and of several ranks. An adapter makes an aggregator of a weighting: the rows of the matrix are the
gradients of linear losses, and `moopt.backward` leaves the direction in `.grad`. A property is run
where TorchJD runs it, at its tolerances, and where ours promises it. A failure is listed, and
excused only by the sentence in `EXCUSED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import moopt
from benchmarks.report import Report, main
from moopt.weightings import Guarantee

NORMAL = ((1, 1, 1), (4, 3, 1), (4, 3, 2), (4, 3, 3), (9, 11, 5), (9, 11, 9))
STATIONARY = ((20, 10, 10), (20, 10, 5), (20, 10, 1), (20, 100, 1), (20, 100, 19))
SCALES = (0.0, 1e-10, 1e3, 1e5, 1e10, 1e15)
RUNS = 5

Named = dict[str, Tensor]
Aggregator = Callable[[Tensor], Tensor]

# (weighting, property) -> why a failure is not a fault.
EXCUSED: dict[tuple[str, str], str] = {
    ("UPGrad", "strongly_stationary_only"): (
        "rounding of gradients that cancel closes the dual cone: docstring of UPGrad, Numerics"
    ),
}


def orthonormal(beside: Tensor, generator: torch.Generator) -> Tensor:
    """`[m, m]`: the orthonormal columns of `beside`, completed at random to a basis."""
    m, k = beside.shape
    rest = torch.randn(m, m - k, generator=generator)
    rest = rest - beside @ (beside.T @ rest)
    return torch.cat([beside, torch.linalg.qr(rest).Q], 1)


def matrix_with(left: Tensor, n: int, rank: int, generator: torch.Generator) -> Tensor:
    """`[m, n]` with these left singular vectors, `[m, >= rank]`, and random others."""
    right = orthonormal(torch.zeros(n, 0), generator)
    values = torch.randn(rank, generator=generator).abs()
    return left[:, :rank] * values @ right[:, :rank].T


def normal(m: int, n: int, rank: int, generator: torch.Generator) -> Tensor:
    """Random singular vectors and values."""
    return matrix_with(orthonormal(torch.zeros(m, 0), generator), n, rank, generator)


def unit_positive(m: int, generator: torch.Generator) -> Tensor:
    positive = torch.randn(m, generator=generator).abs()
    return positive / positive.norm()


def strongly_stationary(m: int, n: int, rank: int, generator: torch.Generator) -> Tensor:
    """Orthogonal to a positive vector: positive weights combine its rows to zero."""
    v = unit_positive(m, generator)
    return matrix_with(orthonormal(v[:, None], generator)[:, 1:], n, rank, generator)


def strictly_weakly_stationary(m: int, n: int, rank: int, generator: torch.Generator) -> Tensor:
    """Some of its rows combine to zero, and the others have a common descent direction."""
    u = unit_positive(m, generator)
    inside = torch.zeros(m, dtype=torch.bool)
    count = int(torch.randint(1, m, (), generator=generator))
    inside[torch.randperm(m, generator=generator)[:count]] = True
    halves = torch.stack([torch.where(inside, u, 0.0), torch.where(inside, 0.0, u)], 1)
    halves = halves / halves.norm(dim=0)
    return matrix_with(orthonormal(halves, generator)[:, 1:], n, rank, generator)


def not_weakly_stationary(m: int, n: int, rank: int, generator: torch.Generator) -> Tensor:
    """A positive vector is a left singular vector with a positive singular value."""
    left = orthonormal(unit_positive(m, generator)[:, None], generator)
    return matrix_with(left, n, rank, generator)


def families() -> dict[str, Named]:
    """The matrices, by kind and by name."""
    generator = torch.Generator().manual_seed(0)

    def sampled(make: Callable[..., Tensor], sizes: tuple[tuple[int, int, int], ...]) -> Named:
        return {f"{make.__name__} {m}x{n}, rank {r}": make(m, n, r, generator) for m, n, r in sizes}

    plain = sampled(normal, NORMAL)
    return {
        "zero": {f"zeros {m}x{n}": torch.zeros(m, n) for m, n in ((1, 1), (4, 3), (9, 11))},
        "normal": plain,
        "scaled": {f"{s:g} * {name}": s * one for s in SCALES for name, one in plain.items()},
        "strong": sampled(strongly_stationary, STATIONARY),
        "weak": sampled(strictly_weakly_stationary, STATIONARY),
        "non-weak": sampled(not_weakly_stationary, STATIONARY),
    }


TYPICAL = ("zero", "normal", "strong", "weak", "non-weak")


def aggregator_of(weighting: moopt.weightings.Weighting) -> Aggregator:
    """What takes a matrix `[m, n]` to the direction `[n]` of one step."""

    def aggregate(matrix: Tensor) -> Tensor:
        parameter = torch.nn.Parameter(torch.zeros(matrix.shape[1]))
        losses = {f"{i}": (row * parameter).sum() for i, row in enumerate(matrix)}
        state: dict[str, object] = {}
        moopt.backward(losses, [parameter], weighting, state=state)
        assert parameter.grad is not None
        return parameter.grad

    return aggregate


def expected_structure(aggregate: Aggregator, matrix: Tensor) -> None:
    vector = aggregate(matrix)
    assert vector.shape == matrix.shape[1:], f"shape {list(vector.shape)}"
    assert bool(vector.isfinite().all()), "not finite"


def non_conflicting(aggregate: Aggregator, matrix: Tensor) -> None:
    """No inner product with a row is negative, up to 4e-4 of them all."""
    products = matrix @ aggregate(matrix)
    close(products.clamp_min(0.0).norm(), products.norm(), 4e-4)


def permutation_invariant(aggregate: Aggregator, matrix: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    vector = aggregate(matrix)
    for _ in range(RUNS):
        order = torch.randperm(len(matrix), generator=generator)
        close(aggregate(matrix[order]), vector, 1e-4)


def linear_under_scaling(aggregate: Aggregator, matrix: Tensor) -> None:
    """`A(diag(a c + b d) J) = a A(diag(c) J) + b A(diag(d) J)`, up to 6e-2."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(RUNS):
        c, d = torch.rand(2, len(matrix), generator=generator)
        a, b = torch.rand(2, generator=generator)
        together = aggregate((a * c + b * d)[:, None] * matrix)
        apart = a * aggregate(c[:, None] * matrix) + b * aggregate(d[:, None] * matrix)
        close(together, apart, 6e-2)


def strongly_stationary_only(aggregate: Aggregator, matrix: Tensor) -> None:
    """Where no positive weights combine the rows to zero, the direction is not zero."""
    norm = float(aggregate(matrix).norm())
    assert norm > 5e-3, f"the direction has length {norm:.1e}"


def close(left: Tensor, right: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)


Check = tuple[Callable[[Aggregator, Tensor], None], tuple[str, ...]]


def checks_of(name: str, weighting: moopt.weightings.Weighting) -> Iterator[Check]:
    """The properties of a weighting, each with the families that it is tested on."""
    yield expected_structure, ("scaled", *TYPICAL)
    promises = weighting.guarantees
    if Guarantee.NON_CONFLICTING in promises:
        yield non_conflicting, TYPICAL
    if Guarantee.PERMUTATION_EQUIVARIANT in promises:
        yield permutation_invariant, TYPICAL
    if name in ("UPGrad", "Mean", "Sum", "Constant"):
        yield linear_under_scaling, TYPICAL
    if name == "UPGrad":
        yield strongly_stationary_only, ("weak", "non-weak")


def run(report: Report, quick: bool) -> None:
    matrices = families()
    failures: dict[str, list[str]] = {}
    rows = []
    for name, row in moopt.weightings.WEIGHTINGS.items():
        if row.required or "auxiliary" in row.needs():
            continue  # settings by position or name, or batches that a matrix does not have
        weighting = row.build()
        aggregate = aggregator_of(weighting)
        counts = [0, 0]
        for check, kinds in checks_of(name, weighting):
            for kind in kinds:
                for label, matrix in matrices[kind].items():
                    if name == "Krum" and len(matrix) < 3:
                        continue
                    counts[0] += 1
                    try:
                        check(aggregate, matrix)
                    except AssertionError as error:
                        counts[1] += 1
                        why = str(error).strip().splitlines()[-1]
                        failures.setdefault(f"{name}, {check.__name__}", []).append(
                            f"{label}: {why}"
                        )
        rows.append([name, *counts])
    report.table(["weighting", "checks", "failures"], rows)
    for what, found in failures.items():
        name, _, prop = what.partition(", ")
        excuse = EXCUSED.get((name, prop))
        report.gate(what, excuse is not None, excuse or f"{len(found)} failures")
        for line in found[:3]:
            print(f"      {line}")
    report.gate("all", not failures or report.passed, f"{sum(r[1] for r in rows)} checks")
    report.results["failures"] = failures


if __name__ == "__main__":
    main("peer_properties", "TorchJD's properties on this library's weightings", run)
