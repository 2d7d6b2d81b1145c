"""ConFIG: the conflict-free direction with the length of the gradients' projections."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.dual_basis_on_host import dual_basis_on_host
from moopt.weightings.dual_space_mgda import dual_space_mgda_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import unit_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def config_weights(
    gramian: Tensor, *, active: Tensor | None = None, rtol: float = DEFAULT_RTOL
) -> SolverResult:
    """Return the weights of `d = (sum_i g_i . u) u`, u the unit vector of equal cosines.

    With norms n_i and cosines C: `v_i = (C^+ 1)_i / n_i`, `u = J'v / ||J'v||`, so that
    `w = v (sum_i (G v)_i) / (v' G v)`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active. Zero rows count as inactive.
        rtol: relative cut-off of the pseudo-inverse, on the eigenvalues of C.

    Returns:
        The weights, of any sign. Status and gap as in `dual_space_mgda_weights`: a gap below 1
        proves `g_i . d > 0`.

    Example:
        >>> import torch
        >>> from moopt.weightings.con_fig import config_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> [round(w, 12) for w in config_weights(G).weights.tolist()]
        [2.0, 0.666666666667]
    """
    gramian = gramian.detach()
    if gramian.dim() == 2 and runs_on_host(gramian):
        solved = dual_basis_on_host(gramian, active, rtol)
        if solved is not None:
            return _lengthened_on_host(gramian, active, *solved)
    result = dual_space_mgda_weights(
        gramian, active=active, variant="dual_basis", length="keep", rtol=rtol
    )
    v = result.weights
    rows = unit_rows(gramian, active)
    unit = v * rows.norms
    slopes = (rows.cosines @ unit[..., None])[..., 0]
    square = (unit * slopes).sum(-1)
    moving = square > 0  # v is zero where the gradients cancel
    factor = (rows.norms * slopes).sum(-1) / torch.where(moving, square, 1.0)
    weights = torch.where(moving[..., None], factor[..., None] * v, 0.0)
    return result._replace(weights=torch.where(rows.finite[..., None], weights, v))


def _lengthened_on_host(
    gramian: Tensor, active: Tensor | None, v: NDArray[np.float64], gap: float
) -> SolverResult:
    """The weights for certified v, which is 0 on inactive rows."""
    on = slice(None) if active is None else active.numpy()
    slopes = gramian.numpy()[on][:, on] @ v[on]
    factor = slopes.sum() / (v[on] @ slopes)
    status = torch.zeros((), dtype=torch.int64)
    certificate = torch.full((), gap, dtype=torch.float64)
    return SolverResult(torch.from_numpy(v * factor), status, certificate, status.clone())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConFIG(Weighting):
    """The direction with the same cosine to every gradient, as long as their projections on it.

    With the unit gradients stacked as U, `u = U^+ 1 / ||U^+ 1||` has `u_i . u` equal and positive
    for linearly independent gradients, and `d = (sum_i g_i . u) u`: every objective falls to first
    order, all at the same rate relative to their gradients. The direction is that of
    `DualSpaceMGDA(variant="dual_basis")`; only the length differs.

    Args:
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        ValueError: if `rtol` is out of range.

    Numerics: see `dual_space_mgda_weights` for status and gap. Weights may be negative. For
    linearly dependent gradients u is the least-squares solution, status RANK_DEFICIENT; the sum
    `sum_i g_i . u` may then be negative, and d lowers the summed loss, as in the paper's formula.
    At a Pareto stationary point d is in general not zero. Active zero rows count as inactive; NaN
    or infinity gives uniform weights. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> weights = moopt.weightings.ConFIG()(moopt.StepStatistics(gramian=G)).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [1.5, 0.75]

    Source: Q. Liu, M. Chu and N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics
    Informed Neural Networks", ICLR 2025 (arXiv 2408.11104), equation 2. We differ in computing
    with the m x m cosines in place of the m x n unit gradients.
    """

    rtol: float = DEFAULT_RTOL

    name: ClassVar[str] = "ConFIG"
    source: ClassVar[str] = (
        "Q. Liu, M. Chu and N. Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed"
        " Neural Networks, ICLR 2025"
    )

    def __post_init__(self) -> None:
        check_number(
            self.name, "rtol", self.rtol, "in [0, 1)", use="1e-12 of the largest eigenvalue"
        )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset(
            {
                Guarantee.NON_CONFLICTING_IF_INDEPENDENT,
                Guarantee.PERMUTATION_EQUIVARIANT,
                Guarantee.POSITIVELY_HOMOGENEOUS,
            }
        )

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        result = config_weights(gramian, active=active, rtol=self.rtol)
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
