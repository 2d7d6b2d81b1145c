"""MGDA: the minimum-norm point of the convex hull of the gradients."""

import dataclasses
import functools
from typing import Literal, get_args

import numpy as np

from moopt.records.device_point import DevicePoint
from moopt.settings.fields import integer, number, one_of
from moopt.solvers.min_norm import FRANK_WOLFE, SOLVERS, min_norm
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting

Normalize = Literal["none", "l2", "loss", "loss+"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MGDA(Weighting):
    """Take the smallest vector in the convex hull of the gradients: multiple-gradient descent.

    Use `normalize="l2"`, the default of `moopt.CommonDescent`, for losses of different scales; and
    "none", the published method, where their scales are comparable.

    `w = argmin over the simplex of w' G w` (`normalize="none"`). The direction `d = sum_i w_i g_i`
    has `g_i . d >= ||d||^2` for every active objective, so -d lowers all of them to first order,
    and `d = 0` exactly where the point is Pareto stationary. Plain MGDA favours the *smallest*
    gradient; normalising first divides row i by s_i and returns `w_i = u_i / s_i`:

    - `"l2"`: `s_i = ||g_i||`. Independent of the scale of every loss; ||d|| <= 1, so the step
      length no longer shrinks with the gradients.
    - `"loss"`: `s_i = |loss_i|`. A loss below 1e-12 of the largest counts as that much.
    - `"loss+"`: `s_i = |loss_i| ||g_i||`.

    Args:
        normalize: "none", "l2", "loss" or "loss+"; default "none".
        solver: of `moopt.solvers.min_norm_point`; default "auto", which is exact. The
            Frank-Wolfe methods reproduce papers and promise no common descent.
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: iteration limit of the solver, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range; at the call, if losses are needed and missing.

    Numerics: the status and the gap refer to the normalised problem. An active gradient that is
    zero makes the point stationary: d = 0.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G)
        >>> moopt.MGDA()(statistics).weights.tolist()
        [0.8, 0.2]
        >>> moopt.MGDA(normalize="l2")(statistics).weights.tolist()
        [0.5, 0.25]

    Source: J.-A. Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", Comptes Rendus Mathématique 350, 2012,
    https://doi.org/10.1016/j.crma.2012.03.014; normalisations: O. Sener and V. Koltun, "Multi-Task
    Learning as Multi-Objective Optimization", NeurIPS 2018, https://arxiv.org/abs/1810.04650. We
    differ from Sener and Koltun's code: it applies the weights of the normalised problem to the raw
    gradients, which is not a common descent direction in general; and it divides by the signed
    loss, which turns descent into ascent for a negative one, where we take the absolute value.
    """

    normalize: Normalize = one_of("none", get_args(Normalize))
    solver: str = one_of("auto", SOLVERS)
    tol: float = number(1e-10, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = set()
        if self.normalize == "none":
            promises |= {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT}
        if self.solver not in FRANK_WOLFE:
            # An approximate solver may stop before any of these holds; its gap tells.
            promises |= {
                Guarantee.NON_CONFLICTING,
                Guarantee.PERMUTATION_EQUIVARIANT,
                Guarantee.ZERO_AT_STATIONARITY,
            }
            if self.normalize == "none":
                promises.add(Guarantee.POSITIVELY_HOMOGENEOUS)
            if self.normalize in ("l2", "loss"):
                promises.add(Guarantee.SCALE_EQUIVARIANT)
        return frozenset(promises)

    @property
    def device_point(self) -> DevicePoint | None:
        exact = self.solver == "auto" and self.max_iter is None and type(self).weigh is MGDA.weigh
        if not exact or "loss" in self.normalize:
            return None
        return DevicePoint.UNIT_HULL if self.normalize == "l2" else DevicePoint.HULL

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"}) if "loss" in self.normalize else frozenset()

    def weigh(self, problem: Problem, state: State) -> Solved:
        """`w_i = u_i / s_i`, u the minimum-norm weights of the rows `g_i / s_i`."""
        settings = (self.solver, self.tol, self.max_iter)
        if self.normalize == "l2" and settings == ("auto", type(self).tol, None):
            return problem.unit_hull._replace(weights=problem.unit_hull.weights / problem.norms)
        scale = np.ones(problem.m)
        if self.normalize in ("l2", "loss+"):
            scale = problem.norms
        if self.normalize in ("loss", "loss+"):
            scale = scale * problem.loss_sizes
        solved = min_norm(
            problem.cosines,
            problem.norms / scale,
            solver=self.solver,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return solved._replace(weights=solved.weights / scale)
