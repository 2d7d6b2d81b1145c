"""HAMU: the best step for the retain loss that meets a quota of forgetting within a radius."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import Range, check_number
from moopt.weightings.base import Guarantee, WeightingOutput
from moopt.weightings.forget_retain import ForgetRetain
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.role_sums import CANCELLED, role_sums


def hamu_weights(
    gramian: Tensor,
    *,
    forget: Sequence[int],
    retain: Sequence[int],
    quota: float = 0.5,
    radius: float = 1.0,
    relative: bool = True,
    stop: bool = True,
    active: Tensor | None = None,
) -> SolverResult:
    """Return the weights of `argmax g_r . d` subject to `g_f . d >= Q` and `||d|| <= R`.

    With c the cosine of g_f and g_r, q = Q / (R ||g_f||) in [0, 1] and unit vectors u:

    - c >= q: the quota is met on the way, `d = R u_r`;
    - else `d = R (q u_f + sqrt(1 - q^2) u_perp)`, u_perp the unit part of g_r orthogonal to g_f;
    - c < -sqrt(1 - q^2): every such d raises the retain loss; with `stop`, `d = 0`.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        forget: the positions of the forget objectives; g_f is the sum of their gradients.
        retain: the positions of the retain objectives; g_r is the sum of their gradients.
        quota: q if `relative`, else Q.
        radius: R in units of ||g_r|| if `relative` (of ||g_f|| without a retain gradient), else R.
        relative: see above.
        stop: see above.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.

    Returns:
        The weights. The gap is the larger violation of the two constraints, relative to R ||g_f||
        and to R. Status: CONVERGED; INFEASIBLE, weights zero, where it stops or where Q exceeds
        R ||g_f||; DEGENERATE, weights zero, where d = 0 solves the problem; NON_FINITE, weights
        uniform over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.hamu import hamu_weights
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> result = hamu_weights(G, forget=[0], retain=[1], quota=0.6)
        >>> [round(w, 12) for w in result.weights.tolist()]
        [1.2, 0.8]
    """
    sums = role_sums(gramian.detach(), (forget, retain), active)
    forgets, retains = sums.norms.unbind(-1)
    has_forget, has_retain = forgets > 0, retains > 0
    cosine = sums.cosines[..., 0, 1]
    if relative:
        bound = radius * torch.where(has_retain, retains, forgets)
        share = torch.full_like(bound, quota)
    else:
        bound = torch.full_like(forgets, radius)
        share = quota / radius / torch.where(has_forget, forgets, 1.0)
    share = torch.where(has_forget, share, 0.0)
    possible = share <= 1.0
    share = share.clamp_max(1.0)
    rest = (1.0 - share.square()).sqrt()

    # In units of R: a on the unit forget gradient, b on the unit retain gradient.
    squared_sine = 1.0 - cosine.square()
    resolved = has_forget & has_retain & (squared_sine > CANCELLED)
    across = torch.where(resolved, rest / torch.where(resolved, squared_sine, 1.0).sqrt(), 0.0)
    direct = has_retain & ((cosine >= share) | ~has_forget)
    a = torch.where(direct, 0.0, share - cosine * across)
    b = torch.where(direct, 1.0, across)
    refused = ~possible
    if stop:
        refused = refused | (has_forget & has_retain & (cosine < -rest))
    a, b = (x.masked_fill(refused, 0.0) for x in (a, b))
    weights = sums.weights(
        torch.stack(
            [
                a * bound / torch.where(has_forget, forgets, 1.0),
                b * bound / torch.where(has_retain, retains, 1.0),
            ],
            -1,
        )
    )

    length = (a.square() + b.square() + 2.0 * a * b * cosine).clamp_min(0.0).sqrt()
    still = (a == 0) & (b == 0)
    gap = torch.maximum(share - a - b * cosine, length - 1.0).clamp_min(0.0)
    gap = gap.masked_fill(still, 0.0).masked_fill(~sums.finite, float("nan"))
    status = torch.zeros_like(gap, dtype=torch.int64)
    status = status.masked_fill(still, int(SolverStatus.DEGENERATE))
    status = status.masked_fill(refused, int(SolverStatus.INFEASIBLE))
    status = status.masked_fill(~sums.finite, int(SolverStatus.NON_FINITE))
    return SolverResult(weights, status, gap, torch.zeros_like(status))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HAMU(ForgetRetain):
    """Hardness-aware unlearning: a quota of forgetting at the least cost for retention.

    Each step solves `max g_r . d` subject to `g_f . d >= Q` and `||d|| <= R`, in closed form: the
    retain gradient where it brings the quota by itself, otherwise the quota along g_f and the rest
    of the radius along the part of g_r orthogonal to it. The hardness is the conflict `-g_r . g_f`:
    beyond `sqrt(||g_r||^2 ||g_f||^2 - Q^2 ||g_r||^2 / R^2)` no such d keeps the retain loss, and
    the method stops: weights 0, status INFEASIBLE.

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
            the call, if the step has no names or an objective without a role.

    Numerics: see `hamu_weights` for status and gap. Without a forget gradient d is `R u_r`;
    without a retain gradient d is the shortest vector that meets the quota. Parallel gradients:
    see the closed form; exactly opposite ones stop. No synchronisation on a device.

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
    Hardness-Aware Multi-Objective Unlearning", ICML 2026 (arXiv 2606.02119), variant HAMU-Q;
    HAMU-U exchanges the roles. The paper splits quota and radius over the layers; here there is
    one constraint for all shared parameters. The relative settings follow the authors' code, whose
    radius is lr ||g_r|| on request. Several objectives in one role are ours.
    """

    quota: float = 0.5
    radius: float = 1.0
    relative: bool = True
    stop: bool = True

    name: ClassVar[str] = "HAMU"
    source: ClassVar[str] = (
        "J. Chen, X. Niu, R. H. L. Sim, Z. Liu, N. F. Chen and B. K. H. Low, How Hard Can It Be?"
        " Hardness-Aware Multi-Objective Unlearning, ICML 2026"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed: Range = "in [0, 1]" if self.relative else "finite and >= 0"
        use = (
            "0.5 of the largest possible forgetting, or relative=False" if self.relative else "0.5"
        )
        check_number(self.name, "quota", self.quota, allowed, use=use)
        check_number(self.name, "radius", self.radius, "finite and > 0", use="1.0")

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

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        forget, retain = self.positions(statistics)
        result = hamu_weights(
            gramian,
            forget=forget,
            retain=retain,
            quota=self.quota,
            radius=self.radius,
            relative=self.relative,
            stop=self.stop,
            active=active,
        )
        return WeightingOutput(with_auxiliary_rows(result.weights, statistics), {}, result)
