"""DualSpaceMGDA: combinations of the dual basis of the gradients."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, pseudo_inverse, runs_on_host
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.dual_space_on_host import RESIDUAL_TOL, dual_space_weights_on_host
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import all_finite, pairs

Variant = Literal["unit_dual", "dual_basis", "projected"]
Length = Literal["mean_gradient", "keep"]

HOST_SIZE = 10
"""Up to this m plain Python beats torch on the host."""

CANCELLED = 64 * torch.finfo(torch.float64).eps
"""||d||^2 below this share of the sum of its absolute terms is rounding: d = 0."""


def dual_space_mgda_weights(
    gramian: Tensor,
    *,
    active: Tensor | None = None,
    variant: Variant = "dual_basis",
    length: Length = "mean_gradient",
    rtol: float = DEFAULT_RTOL,
) -> SolverResult:
    """Return the weights of a positive combination of the dual basis of the unit gradients.

    With norms n_i, unit gradients u_i = g_i / n_i, cosines C = U U' and E = C^+, the dual vectors
    are `v_i = sum_j E_ij u_j`: `u_i . v_j = 1` for i = j and 0 otherwise. The direction is
    `d = sum_i c_i v_i` with c_i > 0, so that `u_i . d = c_i`:

    - "dual_basis": c_i = 1/m; - "unit_dual": c_i = 1 / (m ||v_i||), ||v_i|| = sqrt(E_ii);
    - "projected": c_i = n_i / (m E_ii), since v_i / E_ii is u_i projected off the other gradients.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active. Zero rows count as inactive.
        variant: see above.
        length: "mean_gradient": d is rescaled to the norm of the mean gradient; "keep".
        rtol: relative cut-off of the pseudo-inverse, on the eigenvalues of C.

    Returns:
        The weights w, of any sign, with `d = sum_i w_i g_i`. `gap` is the relative residual
        `max_i |u_i . d - c_i| / c_i` before rescaling: a value below 1 proves `g_i . d > 0`.
        Status: CONVERGED; RANK_DEFICIENT where the residual exceeds 1e-3; DEGENERATE where
        `sum_i c_i v_i = 0`, weights zero: then `sum_i c_i u_i = 0`, the point is Pareto
        stationary; NON_FINITE, weights uniform over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.dual_space_mgda import dual_space_mgda_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> dual_space_mgda_weights(G, length="keep").weights.tolist()
        [0.5, 0.25]
    """
    gramian = gramian.detach()
    if gramian.dim() == 2 and gramian.shape[-1] <= HOST_SIZE and runs_on_host(gramian):
        flags = None if active is None else active.tolist()
        solved = dual_space_weights_on_host(gramian.tolist(), flags, variant, length, rtol)
        if solved is not None:
            import numpy as np

            # By way of numpy: half the cost of `torch.tensor` for so few numbers.
            weights, gap = (torch.from_numpy(np.array(value)) for value in solved)
            status = torch.zeros((), dtype=torch.int64)
            return SolverResult(weights, status, gap, torch.zeros_like(status))
    return _solve(gramian, active, variant, length, rtol)


def _solve(
    gramian: Tensor, active: Tensor | None, variant: Variant, length: Length, rtol: float
) -> SolverResult:
    """Batched, branch-free and complete: every rank, zero rows, non-finite values."""
    diagonal = gramian.diagonal(dim1=-2, dim2=-1)
    on = torch.ones_like(diagonal, dtype=torch.bool)
    if active is not None:
        on = on & active.to(gramian.device)
    finite = all_finite(gramian, None if active is None else on)
    live = on & (diagonal > 0) & finite[..., None]
    norms = torch.where(live, diagonal, 1.0).sqrt()
    # Dividing twice keeps the product of two small norms from underflowing.
    cosines = torch.where(pairs(live), gramian, 0.0) / norms[..., :, None] / norms[..., None, :]
    inverse = pseudo_inverse(cosines, rtol=rtol)

    largest = _nonzero(torch.where(live, norms, 0.0).amax(-1))
    relative = norms / largest[..., None]
    share = mean_weights(gramian, active=live)
    squared_lengths = _nonzero(inverse.diagonal(dim1=-2, dim2=-1))
    if variant == "dual_basis":
        coefficients = share
    elif variant == "unit_dual":
        coefficients = share / squared_lengths.sqrt()
    else:
        coefficients = share * relative / squared_lengths
    unit_weights = _apply(inverse, coefficients)
    # One refinement step: the explicit inverse alone loses accuracy with the condition number.
    unit_weights = unit_weights + _apply(inverse, coefficients - _apply(cosines, unit_weights))

    square = (coefficients * unit_weights).sum(-1)
    terms = (coefficients * _apply(inverse.abs(), coefficients)).sum(-1)
    moving = square > CANCELLED * terms
    if length == "mean_gradient":
        mean = share * relative
        mean_square = (mean * _apply(cosines, mean)).sum(-1).clamp_min(0.0)
        factor = largest * (mean_square / torch.where(moving, square, 1.0)).sqrt()
    else:
        factor = largest if variant == "projected" else torch.ones_like(largest)
    weights = torch.where(live & moving[..., None], factor[..., None] * unit_weights / norms, 0.0)
    weights = torch.where(finite[..., None], weights, mean_weights(gramian, active=on))

    error = (_apply(cosines, unit_weights) - coefficients).abs()
    residual = (error / torch.where(live, coefficients, 1.0)).amax(-1)
    status = torch.where(
        residual <= RESIDUAL_TOL, int(SolverStatus.CONVERGED), int(SolverStatus.RANK_DEFICIENT)
    )
    status = status.masked_fill(~moving, int(SolverStatus.DEGENERATE))
    status = status.masked_fill(~finite, int(SolverStatus.NON_FINITE))
    gap = residual.masked_fill(~finite, float("nan"))
    return SolverResult(weights, status, gap, torch.zeros_like(status))


def _nonzero(values: Tensor) -> Tensor:
    """The values, with 1 in place of 0 (and of negative rounding) as a safe divisor."""
    return torch.where(values > 0, values, 1.0)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector, batched."""
    return (matrix @ vector[..., None])[..., 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualSpaceMGDA(Weighting):
    """A common descent direction from the dual basis of the gradients.

    `d = sum_i c_i v_i` with the dual vectors v_i of the unit gradients (`u_i . v_j = 1` for
    i = j, else 0) and c_i > 0, so that `u_i . d = c_i > 0`: for linearly independent gradients
    every objective falls to first order. Variants:

    - `"dual_basis"`: c_i equal. The same cosine with every gradient (the direction of ConFIG, the
      incentre of the dual cone); equal to l2-normalised MGDA wherever its weights are positive.
    - `"unit_dual"`: the mean of the *unit* dual vectors, the generator rays of the dual cone:
      nearest to the paper's words.
    - `"projected"`: the mean of the gradients each projected off the span of the others: nearest
      to the authors' code of a sibling method.

    On nearly parallel gradients the smallest cosine of `"unit_dual"` and `"projected"` falls with
    their angle, and that of `"dual_basis"` does not, so it is the default.

    At a Pareto stationary point d is in general *not* zero: stationarity is a separate test. For
    linearly dependent gradients the pseudo-inverse gives the least-squares solution, which may
    raise an objective; the status is then RANK_DEFICIENT, and `moopt.CommonDescent` replaces a
    step that fails its descent check.

    Args:
        variant: "dual_basis", "unit_dual" or "projected"; default "dual_basis".
        length: "mean_gradient" (default) rescales d to the norm of the mean gradient of the
            active objectives, so that d grows and shrinks with the gradients; "keep" leaves the
            formula's own length, which does not depend on the gradients' scale for "dual_basis"
            and "unit_dual".
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: see `dual_space_mgda_weights` for status and gap. Weights may be negative and do not
    sum to one. Active zero rows count as inactive. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> weighting = moopt.DualSpaceMGDA(variant="dual_basis", length="keep")
        >>> weighting(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.5, 0.25]

    Source: Z. Pan et al., "Multi-Objective Large Language Model Unlearning", ICASSP 2025
    (arXiv 2412.20412), which names "dual space MGDA" and publishes neither code nor a closed
    form: the three variants are reconstructions, *inferred* from its words and from the authors'
    sibling method FedOSD (arXiv 2412.20200). "dual_basis" is the direction of Q. Liu, M. Chu and
    N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks",
    ICLR 2025 (arXiv 2408.11104). The rescaling is the authors' habit in sibling code.
    """

    variant: Variant = "dual_basis"
    length: Length = "mean_gradient"
    rtol: float = DEFAULT_RTOL

    name: ClassVar[str] = "DualSpaceMGDA"
    source: ClassVar[str] = (
        "Z. Pan et al., Multi-Objective Large Language Model Unlearning, ICASSP 2025"
        " (reconstructed: the paper gives no closed form)"
    )

    def __post_init__(self) -> None:
        for field, allowed in (("variant", get_args(Variant)), ("length", get_args(Length))):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(
                    f"`{field}` of `DualSpaceMGDA` must be one of {list(allowed)}; got {value!r}."
                    f" The default is {type(self).__dataclass_fields__[field].default!r}."
                )
        check_number(
            self.name, "rtol", self.rtol, "in [0, 1)", use="1e-12 of the largest eigenvalue"
        )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {
            Guarantee.NON_CONFLICTING_IF_INDEPENDENT,
            Guarantee.PERMUTATION_EQUIVARIANT,
        }
        if self.variant != "projected":
            promises.add(Guarantee.SCALE_EQUIVARIANT)
        if self.length == "mean_gradient" or self.variant == "projected":
            promises.add(Guarantee.POSITIVELY_HOMOGENEOUS)
        if self.length == "mean_gradient":
            promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        result = dual_space_mgda_weights(
            gramian, active=active, variant=self.variant, length=self.length, rtol=self.rtol
        )
        weights = with_auxiliary_rows(result.weights, statistics)
        return WeightingOutput(weights, {}, result)
