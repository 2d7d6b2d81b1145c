"""HAMU: the best step for the retain loss that meets a quota of forgetting within a radius."""

import dataclasses
import math

from moopt.records.status import SolverStatus
from moopt.settings.fields import number
from moopt.settings.numbers import check_number
from moopt.weightings.base import Guarantee, Problem, Solved, State
from moopt.weightings.forget_retain import ForgetRetain
from moopt.weightings.role_sums import cancelled_below


@dataclasses.dataclass(frozen=True, kw_only=True)
class HAMU(ForgetRetain):
    """Meet a quota of forgetting at the least cost for retention: hardness-aware unlearning.

    Use it where the quota per step is known; it stops where retention would have to suffer.

    Each step solves `max g_r . d` subject to `g_f . d >= Q` and `||d|| <= R`, in closed form: the
    retain gradient where it brings the quota by itself, otherwise the quota along g_f and the rest
    of the radius along the part of g_r orthogonal to it. With c the cosine of g_f and g_r,
    `q = Q / (R ||g_f||)` in [0, 1], and unit vectors u:

    - c >= q: the quota is met on the way, `d = R u_r`;
    - else `d = R (q u_f + sqrt(1 - q^2) u_perp)`, u_perp the unit part of g_r orthogonal to g_f;
    - c < -sqrt(1 - q^2): every such d raises the retain loss, and the method stops: weights 0,
      status INFEASIBLE. The paper calls the conflict `-g_r . g_f` the hardness.

    Signs: the paper takes a step Delta that *ascends* the cross-entropy of the forget set, with
    kappa = g_r . grad CE_f. moopt minimises every loss: give the negated cross-entropy (or another
    loss that falls as the model forgets) as the forget objective, so that g_f = -grad CE_f,
    kappa = -g_r . g_f, and Delta = -d times the learning rate: Q is the paper's quota over lr, R
    its radius over lr.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: their gradients are added up.
        quota: with `relative`, Q as a share of `R ||g_f||`, the most that the radius allows, in
            [0, 1]; else Q itself, >= 0. Default 0.5.
        radius: with `relative`, R in units of ||g_r||; else R itself; > 0. Default 1.0.
        relative: default True, independent of the scale of the losses.
        stop: default True; False takes the least harmful d that meets the quota.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or a setting is out of range; at
            the call, if an objective of the step has no role.

    Numerics: the gap is the larger violation of the two constraints, relative to R ||g_f|| and to
    R. Status INFEASIBLE, weights 0, where it stops or where Q exceeds R ||g_f||; DEGENERATE,
    weights 0, where d = 0 solves the problem. Without a forget gradient d is `R u_r`; without a
    retain gradient d is the shortest vector that meets the quota, and a relative radius is in units
    of ||g_f||. Parallel gradients: see the closed form; exactly opposite ones stop.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import HAMU
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64),
        ...     names=("forget", "retain"),
        ... )
        >>> weights = HAMU(forget="forget", retain="retain", quota=0.6)(statistics).weights
        >>> [round(w, 12) for w in weights.tolist()]
        [1.2, 0.8]

    Source: J. Chen, X. Niu, R. H. L. Sim, Z. Liu, N. F. Chen and B. K. H. Low, "How Hard Can It Be?
    Hardness-Aware Multi-Objective Unlearning", ICML 2026, https://arxiv.org/abs/2606.02119, variant
    HAMU-Q; HAMU-U exchanges the roles. The paper splits quota and radius over the layers; here
    there is one constraint for all shared parameters. The relative settings follow the authors'
    code, whose radius is lr ||g_r|| on request. Several objectives in one role are our addition.
    """

    quota: float = number(0.5, "finite and >= 0")
    radius: float = number(1.0, "finite and > 0")
    relative: bool = True
    stop: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative:
            use = "0.5 of the largest possible forgetting, or relative=False"
            check_number(self.name, "quota", self.quota, "in [0, 1]", use=use)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        if not self.relative:
            return frozenset()
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair:
            promises.add(Guarantee.SCALE_EQUIVARIANT)
            if self.quota == self.radius == 1.0:
                promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """In units of R: a on the unit vector of g_f, b on that of g_r."""
        sums = self.sums(problem)
        forget, retain, cosine = sums.forget, sums.retain, sums.cosine
        bound = self.radius * (retain or forget) if self.relative else self.radius
        share = 0.0
        if forget > 0.0:
            share = self.quota if self.relative else self.quota / self.radius / forget
        both, possible = forget > 0.0 and retain > 0.0, share <= 1.0
        rest = math.sqrt(1.0 - share**2) if possible else 0.0
        if not possible or (self.stop and both and cosine < -rest):
            return Solved(sums.weights(0.0, 0.0), SolverStatus.INFEASIBLE, 0.0)
        squared_sine, across = 1.0 - cosine**2, 0.0
        if both and squared_sine > cancelled_below(problem):
            across = rest / math.sqrt(squared_sine)
        a, b = share - cosine * across, across
        if retain > 0.0 and (cosine >= share or forget == 0.0):
            a, b = 0.0, 1.0
        if a == b == 0.0:
            return Solved(sums.weights(0.0, 0.0), SolverStatus.DEGENERATE, 0.0)
        length = math.sqrt(max(0.0, a * a + b * b + 2.0 * a * b * cosine))
        gap = max(share - a - b * cosine, length - 1.0, 0.0)
        weights = sums.weights(a * bound / (forget or 1.0), b * bound / (retain or 1.0))
        return Solved(weights, SolverStatus.CONVERGED, gap)
