"""DualSpaceMGDA: combinations of the dual basis of the gradients."""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np

from moopt.settings.fields import number, one_of
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL, pseudo_inverse
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, Weighting
from moopt.weightings.dual_basis import dual_combination

Variant = Literal["unit_dual", "dual_basis", "projected"]
Length = Literal["mean_gradient", "keep"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualSpaceMGDA(Weighting):
    """Combine the dual basis of the gradients into a common descent direction.

    Use it for unlearning as in MOLLM, with linearly independent gradients.

    With norms n_i, unit gradients u_i = g_i / n_i, cosines C and E = C^+, the dual vectors are
    `v_i = sum_j E_ij u_j`: `u_i . v_j = 1` for i = j, else 0. The direction is `d = sum_i c_i v_i`
    with c_i > 0, so that `u_i . d = c_i > 0`: for linearly independent gradients every objective
    falls to first order. Variants:

    - `"dual_basis"`: c_i = 1/m. The same cosine with every gradient (the direction of ConFIG, the
      incentre of the dual cone); equal to l2-normalised MGDA wherever its weights are positive.
    - `"unit_dual"`: c_i = 1 / (m ||v_i||) with ||v_i|| = sqrt(E_ii), the mean of the *unit* dual
      vectors, the generator rays of the dual cone: nearest to the paper's words.
    - `"projected"`: c_i = n_i / (m E_ii), the mean of the gradients each projected off the span of
      the others: nearest to the authors' code of a sibling method.

    On nearly parallel gradients the smallest cosine of `"unit_dual"` and `"projected"` falls with
    their angle, and that of `"dual_basis"` does not, so it is the default.

    At a Pareto stationary point d is in general *not* zero: stationarity is a separate test. For
    linearly dependent gradients the pseudo-inverse gives the least-squares solution, which may
    raise an objective; the status is then RANK_DEFICIENT, and `moopt.CommonDescent` replaces a
    step that fails its descent check.

    Args:
        variant: "dual_basis", "unit_dual" or "projected"; default "dual_basis".
        length: "mean_gradient" (default) rescales d to the norm of the mean gradient, so that d
            grows and shrinks with the gradients; "keep" leaves the formula's own length, which
            does not depend on the gradients' scale for "dual_basis" and "unit_dual".
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12. It acts on the
            eigenvalues of the cosines, never of the Gramian: a small gradient is not cut off.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: `gap` is the relative residual `max_i |u_i . d - c_i| / c_i` before rescaling: a value
    below 1 proves `g_i . d > 0`. Status: CONVERGED; RANK_DEFICIENT where the residual exceeds 1e-3;
    DEGENERATE where `sum_i c_i u_i = 0`, d = 0: the point is Pareto stationary. Gradients that the
    rounding of the Gramian cannot tell from dependent ones count as dependent. Weights may be
    negative and do not sum to one.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> weighting = moopt.DualSpaceMGDA(variant="dual_basis", length="keep")
        >>> weighting(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.5, 0.25]

    Source: Z. Pan et al., "Multi-Objective Large Language Model Unlearning", ICASSP 2025,
    https://arxiv.org/abs/2412.20412, which names "dual space MGDA" and publishes neither code nor
    a closed form: the three variants are reconstructions, *inferred* from its words and from the
    authors' sibling method FedOSD, https://arxiv.org/abs/2412.20200. "dual_basis" is the direction
    of `ConFIG`. The rescaling is the authors' habit in sibling code.
    """

    variant: Variant = one_of("dual_basis", get_args(Variant))
    length: Length = one_of("mean_gradient", get_args(Length))
    rtol: float = number(DEFAULT_RTOL, "in [0, 1)")

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

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`E c` over the norms, which are taken relative to the largest."""
        cosines, m = problem.cosines, problem.m
        largest = problem.norms.max()
        norms = problem.norms / largest
        inverse = pseudo_inverse(cosines, rtol=self.rtol, noise=problem.noise)
        solved = dual_combination(cosines, inverse, self._slopes(inverse, norms), problem.noise)
        v = solved.weights
        factor = largest if self.variant == "projected" else 1.0
        if self.length == "mean_gradient":
            mean_square, square = norms @ cosines @ norms, v @ cosines @ v
            factor = largest / m * math.sqrt(max(mean_square, 0.0) / (square or 1.0))
        return solved._replace(weights=v / problem.norms * factor)

    def _slopes(self, inverse: Array, norms: Array) -> Array:
        """The c_i of the variant, for norms relative to the largest."""
        share = np.full(len(norms), 1.0 / len(norms))
        if self.variant == "dual_basis":
            return share
        # Only a coarse `rtol` makes E_ii smaller than this.
        squares = np.maximum(inverse.diagonal(), share * share)
        return share / np.sqrt(squares) if self.variant == "unit_dual" else share * norms / squares
