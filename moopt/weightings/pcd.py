"""PCD: the primary gradient, bent just enough for every secondary objective to progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.settings.roles import membership, refuse_overlap, role_names, role_positions
from moopt.solvers.pseudo_inverse import runs_on_host
from moopt.solvers.quota_point import quota_point
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.pcd_on_host import pcd_on_host
from moopt.weightings.role_sums import CANCELLED
from moopt.weightings.unit_rows import all_finite, pairs

MEAN_SQUARE = "mean_square"
NUM_STEPS = "num_steps"


def pcd_weights(
    gramian: Tensor,
    mean_squares: Tensor,
    *,
    primary: int | None,
    secondary: Sequence[int],
    tau: float = 0.1,
    active: Tensor | None = None,
) -> SolverResult:
    """Return the weights of the nearest vector to the primary gradient with secondary progress.

    With normalised gradients `h_i = g_i / sqrt(mean_square_i)` it solves `min ||d - h_1||^2`
    subject to `h_j . d >= tau ||h_j||^2` for every secondary j, and rescales d to ||g_1||.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        mean_squares: float64 `[..., m]`, averages of ||g_i||^2, > 0 where g_i is not zero.
        primary: the position of the primary objective; None where it is absent.
        secondary: the positions of the secondary objectives.
        tau: >= 0.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active. Zero rows count as inactive.

    Returns:
        The weights. The gap is the residual of the optimality conditions, relative to
        `||h_1|| + tau max ||h_j||`, as in `moopt.solvers.quota_point`.
        Status: CONVERGED; INFEASIBLE, `d = g_1`, where no d meets the constraints; DEGENERATE,
        weights zero, where d = 0 is the solution; NON_FINITE, weights uniform over the active
        objectives. Without a primary gradient, the weights are 1 on the secondary ones.

    Example:
        >>> import torch
        >>> from moopt.weightings.pcd import pcd_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> result = pcd_weights(G, G.diagonal(), primary=0, secondary=[1], tau=0.75)
        >>> [round(w, 12) for w in result.weights.tolist()]
        [0.8, 0.3]
    """
    gramian = gramian.detach()
    if primary is not None and gramian.dim() == 2 and runs_on_host(gramian):
        regular = pcd_on_host(gramian, mean_squares, primary, secondary, tau, active)
        if regular is not None:
            found, residual, num_iter = regular
            return SolverResult(
                torch.from_numpy(found),
                torch.tensor(int(SolverStatus.CONVERGED)),
                torch.tensor(residual, dtype=torch.float64),
                torch.tensor(num_iter),
            )
    m = gramian.shape[-1]
    diagonal = gramian.diagonal(dim1=-2, dim2=-1)
    on = torch.ones_like(diagonal, dtype=torch.bool)
    if active is not None:
        on = on & active.to(gramian.device)
    finite = all_finite(gramian, None if active is None else on)
    live = on & (diagonal > 0) & finite[..., None]
    norms = torch.where(live, diagonal, 1.0).sqrt()
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = torch.where(pairs(live), gramian, 0.0) / norms[..., :, None] / norms[..., None, :]
    lengths = torch.where(live, norms / torch.where(live, mean_squares, 1.0).sqrt(), 0.0)

    first = live & membership([] if primary is None else [primary], m, gramian.device)
    others = live & membership(secondary, m, gramian.device)
    has_first = first.any(-1, keepdim=True)
    start = torch.where(first, lengths, 0.0)
    solved = quota_point(cosines, start, tau * lengths, others)
    feasible = (solved.status == int(SolverStatus.CONVERGED))[..., None]
    coefficients = solved.weights
    squared = (coefficients * _apply(cosines, coefficients)).sum(-1, keepdim=True)
    moving = squared > CANCELLED * coefficients.sum(-1, keepdim=True).square()
    length = torch.where(first, norms, 0.0).sum(-1, keepdim=True)
    factor = torch.where(moving, length / torch.where(moving, squared, 1.0).sqrt(), 0.0)
    weights = torch.where(feasible, factor * coefficients / norms, first.to(norms.dtype))
    weights = torch.where(has_first, weights, others.to(weights.dtype))
    weights = torch.where(finite[..., None], weights * live, mean_weights(gramian, active=on))

    code = torch.where(feasible & moving, int(SolverStatus.CONVERGED), int(SolverStatus.DEGENERATE))
    code = torch.where(feasible, code, int(SolverStatus.INFEASIBLE))
    code = torch.where(has_first, code, int(SolverStatus.CONVERGED))[..., 0]
    code = torch.where(live.any(-1), code, int(SolverStatus.DEGENERATE))
    code = code.masked_fill(~finite, int(SolverStatus.NON_FINITE))
    gap = torch.where(has_first[..., 0], solved.gap, 0.0).masked_fill(~finite, float("nan"))
    return SolverResult(weights, code, gap, solved.num_iter)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PCD(Weighting):
    """Priority-constrained descent: one primary objective, and a share of progress for the others.

    With `h_i = g_i / sqrt(mean of ||g_i||^2)`, the mean an exponential moving average over the
    steps, `d = argmin ||d - h_1||^2` subject to `h_j . d >= tau ||h_j||^2` for every secondary j,
    rescaled to ||g_1||. It is `h_1 + sum_j v_j h_j` with `v_j >= 0`, and v_j = 0 where the
    constraint holds by itself. Averages near the present norms make tau a share of a unit gradient,
    whatever the scale of the losses. The *primary* loss may rise where a secondary gradient
    opposes it and tau > 0; with tau = 0, d conflicts with no objective, the primary included.

    Args:
        primary: the name of the primary objective.
        secondary: the name of a secondary objective, or several names: each is a constraint.
        tau: the share of progress, in [0, 1]; default 0.1 (our choice).
        beta: the momentum of the averages, in [0, 1); default 0.9 (our choice); 0 normalises by
            the present norms.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or a setting is out of range; at
            the call, if the step has no names or an objective without a role.

    Numerics: see `pcd_weights` for status and gap. Where no d meets the constraints, d = g_1 and
    the status is INFEASIBLE. Without a primary gradient (or with a zero one) d is the sum of the
    secondary ones. Scale equivariance and homogeneity refer to a run whose losses are
    rescaled from the first step on. A non-finite step leaves the averages alone. No
    synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import PCD
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64),
        ...     names=("task", "sparsity"),
        ... )
        >>> weighting = PCD(primary="task", secondary="sparsity", tau=0.75)
        >>> [round(w, 12) for w in weighting(statistics).weights.tolist()]
        [0.8, 0.3]

    Source: D. Varam and M. I. AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained
    Descent for Hierarchical Multi-Objective Optimization", 2026 (arXiv 2606.29521). We differ: an
    objective's first step starts its average, and no constant is added to it, so that the scale of
    a loss never matters; any number of secondary objectives goes through one certified solver.
    """

    primary: str
    secondary: str | Sequence[str]
    tau: float = 0.1
    beta: float = 0.9

    name: ClassVar[str] = "PCD"
    source: ClassVar[str] = (
        "D. Varam and M. I. AlHajri, Not All Objectives Are Born Equal: Priority-Constrained"
        " Descent for Hierarchical Multi-Objective Optimization, 2026"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.primary, str):
            raise TypeError(
                f"`primary` of `PCD` must be the name of one objective; got {self.primary!r}. Name"
                " the others in `secondary`."
            )
        names = role_names(self.secondary, "secondary", self.name)
        object.__setattr__(self, "secondary", names)
        refuse_overlap(self._roles, self.name)
        check_number(self.name, "tau", self.tau, "in [0, 1]", use="0.1")
        check_number(self.name, "beta", self.beta, "in [0, 1)", use="0.9")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        # A step without the primary objective sums the others as they are.
        if len(self.secondary) == 1:
            promises |= {Guarantee.SCALE_EQUIVARIANT, Guarantee.IDEMPOTENT}
            if self.tau == 0.0:
                promises.add(Guarantee.NON_CONFLICTING)
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"names"})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {MEAN_SQUARE: 1, NUM_STEPS: 1}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Zero averages of zero steps."""
        return {
            MEAN_SQUARE: torch.zeros(num_objectives, dtype=torch.float64, device=device),
            NUM_STEPS: torch.zeros(num_objectives, dtype=torch.int64, device=device),
        }

    @property
    def _roles(self) -> dict[str, tuple[str, ...]]:
        return {"primary": (self.primary,), "secondary": tuple(self.secondary)}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        primary, secondary = role_positions(statistics, self._roles, self.name)
        if state is None:
            state = self.initial_state(statistics.num_objectives, gramian.device)
        gramian = gramian.detach()
        squares = gramian.diagonal(dim1=-2, dim2=-1)
        on = torch.ones_like(squares, dtype=torch.bool) if active is None else active
        on = on.expand(squares.shape)
        finite = all_finite(gramian, None if active is None else on)[..., None]
        # A zero gradient neither starts an average nor pulls it down.
        usable = on & finite & (squares > 0)
        former = state[MEAN_SQUARE].expand(squares.shape)
        num_steps = state[NUM_STEPS].expand(squares.shape)
        mixed = self.beta * former + (1.0 - self.beta) * squares
        average = torch.where(usable, torch.where(num_steps > 0, mixed, squares), former)
        result = pcd_weights(
            gramian,
            average,
            primary=primary[0] if primary else None,
            secondary=secondary,
            tau=self.tau,
            active=active,
        )
        weights = with_auxiliary_rows(result.weights, statistics)
        following = {MEAN_SQUARE: average, NUM_STEPS: num_steps + usable}
        return WeightingOutput(weights, following, result)
