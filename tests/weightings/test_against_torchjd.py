"""Every method shared with TorchJD 0.18 gives its direction, or differs in a way that is named.

In well-scaled float64, to 1e-6. What is inexact in the peer (an early stop, a ridge, a constant
under a root) is switched off there, and its default is shown to be the difference. The peer's
aggregators of rows are in tests/aggregators.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor

from moopt.testing import OneBatch
from moopt.testing.directions import statistics
from moopt.weightings import (
    CRMOGM,
    IMTLG,
    MGDA,
    PCD,
    AlignedMTL,
    CAGrad,
    ConFIG,
    Constant,
    DualProj,
    FairGrad,
    GradVac,
    Krum,
    Mean,
    MoDo,
    NashMTL,
    PCGrad,
    Random,
    SDMGrad,
    Sum,
    UPGrad,
    Weighting,
)
from moopt.weightings.draws import random_orders
from tests.cases import case

PEER_TOL = 1e-6
"""Relative difference of two directions in well-scaled float64: what the library promises."""

STEPS = 4
"""Steps of one run, each on other gradients: what a state holds shows from the second on."""

IN_TESTS_OF_AGGREGATORS = {"GradDrop", "TrimmedMean", "ExcessMTL"}

aggregation = pytest.importorskip("torchjd.aggregation")

Peer = Callable[[Tensor], Tensor]


class Shared(NamedTuple):
    """A method of both libraries.

    Attributes:
        ours: from the number of objectives.
        peer: from the number of objectives; takes a Jacobian.
        families: of the cases.
        ms: numbers of objectives.
    """

    ours: Callable[[int], Weighting]
    peer: Callable[[int], Peer]
    families: tuple[str, ...] = ("aligned", "conflicting", "orthogonal")
    ms: tuple[int, ...] = (2, 3, 5, 10)


def linear(m: int) -> list[float]:
    return [1.0 + 0.5 * i for i in range(m)]


def weighted(weighting: Any, *, jacobian: bool = False) -> Peer:
    """A peer's weighting of the Gramian (or of the Jacobian) as an aggregator."""
    return lambda rows: rows.T @ weighting(rows if jacobian else rows @ rows.T)


def without_ridge(name: str) -> Peer:
    """Its default ridge bends the direction by up to 1e-2: see below."""
    pytest.importorskip("quadprog")
    linalg = pytest.importorskip("torchjd.linalg")
    projector = linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-13)
    return getattr(aggregation, name)(projector=projector)


def to_the_end(m: int) -> Peer:
    """Nash-MTL without its limit of 20 programs and its stop at a residual of 1e-3."""
    pytest.importorskip("ecos")
    peer = aggregation.NashMTL(n_tasks=m, max_norm=1.0, optim_niter=200)

    def settled(gtg: Any, alpha: Any) -> bool:
        return bool(abs(gtg @ alpha * alpha - 1.0).max() < 1e-9)

    def solve(rows: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # About its parametrised program, and about a solver that stops short.
            warnings.simplefilter("ignore")
            peer.reset()
            peer.weighting._stop_criteria = settled
            direction = peer(rows)
        return direction / direction.norm()

    return solve


def clarabel_to_the_end(peer: Peer) -> Peer:
    """At clarabel's defaults, 1e-8 on the objective, the weights are good to the root of it."""
    cvxpy = pytest.importorskip("cvxpy")
    solve = cvxpy.Problem.solve

    def precise(problem: Any, solver: Any, **_: Any) -> Any:
        tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-15)
        return solve(problem, solver, max_iter=500, **tolerances)

    def run(rows: Tensor) -> Tensor:
        with mock.patch.object(cvxpy.Problem, "solve", precise), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Solution may be inaccurate")
            return peer(rows)

    return run


@contextlib.contextmanager
def replayed(orders: list[Tensor]) -> Iterator[None]:
    with mock.patch("torch.randperm", side_effect=orders):
        yield


def in_our_order(peer: Peer, *, leaves_itself_out: bool) -> Peer:
    """The orders that come from torch.randperm are ours, step by step."""
    step = iter(range(STEPS))

    def run(rows: Tensor) -> Tensor:
        m = len(rows)
        orders = []
        for i, row in enumerate(random_orders(0, next(step), m)):
            others = [j for j in range(m) if j != i]
            places = [others.index(j) for j in row] if leaves_itself_out else [*row, i]
            orders.append(torch.tensor(places))
        with replayed(orders):
            return peer(rows)

    return run


def with_our_numbers(m: int) -> Peer:
    """A softmax of normal numbers; ours are a function of seed and step."""
    peer, ours, state = aggregation.Random(), Random(), None

    def run(rows: Tensor) -> Tensor:
        nonlocal state
        weights, state, _ = ours(statistics(rows @ rows.T), state)
        with mock.patch("torch.randn", return_value=weights.log() + 3.0):
            return peer(rows)

    return run


MILD = ("aligned", "orthogonal")

SHARED: dict[str, Shared] = {
    "Mean": Shared(lambda m: Mean(), lambda m: aggregation.Mean()),
    "Sum": Shared(lambda m: Sum(), lambda m: aggregation.Sum()),
    "Constant": Shared(
        lambda m: Constant(linear(m)),
        lambda m: aggregation.Constant(torch.tensor(linear(m), dtype=torch.float64)),
    ),
    "Random": Shared(lambda m: Random(), with_our_numbers),
    # Frank-Wolfe with an exact line search is linear where no weight of the point is zero.
    "MGDA": Shared(
        lambda m: MGDA(),
        lambda m: aggregation.MGDA(epsilon=1e-300, max_iters=2000),
        ("orthogonal",),
        (2, 3),
    ),
    "CRMOGM": Shared(
        lambda m: CRMOGM(IMTLG(), momentum=0.7),
        lambda m: weighted(aggregation.CRMOGMWeighting(aggregation.IMTLGWeighting(), alpha=0.7)),
        MILD,
    ),
    "UPGrad": Shared(lambda m: UPGrad(), lambda m: without_ridge("UPGrad")),
    "DualProj": Shared(lambda m: DualProj(), lambda m: without_ridge("DualProj")),
    "PCGrad": Shared(
        lambda m: PCGrad(),
        lambda m: in_our_order(aggregation.PCGrad(), leaves_itself_out=False),
    ),
    "GradVac": Shared(
        lambda m: GradVac(beta=0.5),
        lambda m: in_our_order(aggregation.GradVac(beta=0.5, eps=0.0), leaves_itself_out=True),
    ),
    "CAGrad": Shared(
        lambda m: CAGrad(c=0.5),
        lambda m: clarabel_to_the_end(aggregation.CAGrad(c=0.5)),
        ("conflicting", "crowded"),
        (2, 3, 5),
    ),
    # Elsewhere its sum of weights may be negative: see below.
    "IMTLG": Shared(lambda m: IMTLG(), lambda m: aggregation.IMTLG(), MILD),
    "NashMTL": Shared(lambda m: NashMTL(max_norm=1.0), to_the_end, MILD, (2, 3, 5)),
    "FairGrad": Shared(
        lambda m: FairGrad(alpha=2.0), lambda m: aggregation.FairGrad(alpha=2.0), MILD, (2, 3, 5)
    ),
    "ConFIG": Shared(lambda m: ConFIG(), lambda m: aggregation.ConFIG()),
    **{
        f"AlignedMTL {mode}": Shared(
            lambda m, mode=mode: AlignedMTL(scale_mode=mode),
            lambda m, mode=mode: aggregation.AlignedMTL(scale_mode=mode),
            ("aligned", "conflicting", "rank_deficient", "duplicate"),
            (3, 5, 10),
        )
        for mode in ("min", "median", "rmse")
    },
    "AlignedMTL with a preference": Shared(
        lambda m: AlignedMTL(preference=linear(m)),
        lambda m: aggregation.AlignedMTL(pref_vector=torch.tensor(linear(m), dtype=torch.float64)),
    ),
    "PCD": Shared(
        # From the second step on its average is another one: see below.
        lambda m: PCD(
            primary="objective 0",
            secondary=[f"objective {i}" for i in range(1, m)],
            tau=0.1,
            beta=0.0,
        ),
        lambda m: aggregation.PCD(tau=0.1, beta=0.0, eps=0.0),
    ),
    "SDMGrad": Shared(
        lambda m: SDMGrad(regularization=0.3),
        lambda m: weighted(aggregation.SDMGradWeighting(lr=0.2, n_iter=5000)),
        ("aligned", "orthogonal", "near_opposite"),
        (2, 3),
    ),
    "MoDo": Shared(
        lambda m: OneBatch(MoDo(step_size=0.2, regularization=0.3)),
        lambda m: weighted(aggregation.MoDoWeighting(gamma=0.2, rho=0.3)),
    ),
    "Krum": Shared(
        lambda m: Krum(num_byzantine=1, num_selected=2),
        lambda m: aggregation.Krum(n_byzantine=1, n_selected=2),
        # One gradient is far from the others, which are equally far from each other.
        ("aligned",),
        (5,),
    ),
}


def direction(weighting: Weighting, rows: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    output = weighting(statistics(rows @ rows.T), state)
    return rows.T @ output.weights, output.state


def apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize(
    ("name", "family", "m"),
    [
        (n, f, m)
        for n, shared in SHARED.items()
        for f in shared.families
        for m in shared.ms
        if m > 2 or f not in ("rank_deficient",)
    ],
)
def test_the_directions_agree(name: str, family: str, m: int) -> None:
    weighting, peer, state = SHARED[name].ours(m), SHARED[name].peer(m), None
    for step in range(STEPS):
        rows = case(family, m, step, norm_ratio=4.0).jacobian
        ours, state = direction(weighting, rows, state)
        assert apart(ours, peer(rows)) <= PEER_TOL


def test_every_method_of_the_peer_is_compared() -> None:
    public = [getattr(aggregation, name) for name in aggregation.__all__]
    abstract = (aggregation.Aggregator, aggregation.Weighting)
    theirs = {
        kind.__name__.removesuffix("Weighting")
        for kind in public
        if isinstance(kind, type) and issubclass(kind, abstract)
    } - {
        "",
        "Aggregator",
        "GramianWeightedAggregator",
        "WeightedAggregator",
        "GeneralizedWeighting",
    }
    assert theirs <= {name.split()[0] for name in SHARED} | IN_TESTS_OF_AGGREGATORS


# ------------------------------------------------------------------- where it differs, and why


@pytest.mark.parametrize("name", ["UPGrad", "DualProj"])
def test_the_peers_ridge_is_the_difference(name: str) -> None:
    """Its default adds 1e-4 of the trace to the Gramian; ours solves the problem itself."""
    rows = case("conflicting", 5, 0, norm_ratio=4.0).jacobian
    ours, _ = direction(SHARED[name].ours(5), rows)
    assert apart(ours, without_ridge(name)(rows)) <= PEER_TOL
    assert apart(ours, getattr(aggregation, name)()(rows)) > 10 * PEER_TOL


def test_imtl_g_of_the_peer_may_climb() -> None:
    """With weights that sum to one the direction's sign can flip; ours is the one that descends."""
    flipped = 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        rows = torch.randn(3, 4, dtype=torch.float64, generator=generator)
        theirs = aggregation.IMTLG()(rows)
        ours, _ = direction(IMTLG(), rows)
        unit = rows / rows.norm(dim=1, keepdim=True)
        if float((unit @ theirs).max()) < 0:
            flipped += 1
            assert float((unit @ ours).min()) > 0
    assert flipped > 0


def test_the_peers_average_of_pcd_starts_at_zero() -> None:
    """Ours starts at the first gradient, so that the scale of a loss never matters."""
    shared = SHARED["PCD"]
    ours = dataclasses.replace(shared.ours(3), beta=0.9)
    peer, state, differences = aggregation.PCD(tau=0.1, beta=0.9, eps=0.0), None, []
    for step in range(2):
        rows = case("conflicting", 3, step, norm_ratio=4.0).jacobian
        mine, state = direction(ours, rows, state)
        differences.append(apart(mine, peer(rows)))
    assert max(differences) > 10 * PEER_TOL
