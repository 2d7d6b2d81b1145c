"""GRU: the forget gradient without the part that raises the retain loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.weightings.base import Guarantee, WeightingOutput
from moopt.weightings.forget_retain import ForgetRetain
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.role_sums import role_sums


def gru_weights(
    gramian: Tensor,
    *,
    forget: Sequence[int],
    retain: Sequence[int],
    cosine_clip: float | None = None,
    active: Tensor | None = None,
) -> Tensor:
    """Return the weights of the forget gradient, rectified where it conflicts with the retain one.

    With c the cosine of g_f and g_r, `d = g_f - min(0, c) ||g_f|| / ||g_r|| g_r`: the solution of
    `min ||d - g_f||` subject to `g_r . d >= 0`. With a clip, c is first raised to it.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        forget: the positions of the forget objectives; g_f is the sum of their gradients.
        retain: the positions of the retain objectives; g_r is the sum of their gradients.
        cosine_clip: in [-1, 0]; None for no clip.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.

    Returns:
        float64 `[..., m]`; uniform over the active objectives where the Gramian is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.gru import gru_weights
        >>> G = torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        >>> gru_weights(G, forget=[0], retain=[1]).tolist()
        [1.0, 1.0]
    """
    sums = role_sums(gramian.detach(), (forget, retain), active)
    forgets, retains = sums.norms.unbind(-1)
    cosine = sums.cosines[..., 0, 1].clamp_max(0.0)
    if cosine_clip is not None:
        cosine = cosine.clamp_min(cosine_clip)
    has_forget, has_retain = forgets > 0, retains > 0
    correction = -cosine * forgets / torch.where(has_retain, retains, 1.0)
    on_retain = torch.where(has_forget, correction, has_retain.to(correction.dtype))
    return sums.weights(torch.stack([has_forget.to(on_retain.dtype), on_retain], -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU(ForgetRetain):
    """Gradient rectified unlearning: the forget gradient, projected off a conflicting retain one.

    `d = argmin ||d - g_f||^2` subject to `g_r . d >= 0`, that is `d = g_f` without conflict and
    `d = g_f - (g_f . g_r) / ||g_r||^2 g_r` with it. With one objective each, d raises neither. The
    retain loss is a constraint only: without conflict, d ignores it.

    Signs: moopt minimises every loss, so g_f is the gradient of the *minimised* forget loss. For
    the paper's gradient ascent on the cross-entropy of the forget set, give the negated
    cross-entropy as the forget objective; NPO and its kin are minimised already.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: their gradients are added up.
        cosine_clip: in [-1, 0]: a cosine below it counts as it, which bounds the correction by
            `|cosine_clip| ||g_f||` and leaves some conflict; the authors' code has -0.5 as an
            option. Default None: no clip, as in the paper.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or `cosine_clip` is out of range;
            at the call, if the step has no names or an objective without a role.

    Numerics: without a retain gradient d is g_f; without a forget gradient (or with a zero one) d
    is what is left, g_r. NaN or infinity among the active rows gives uniform weights. No
    synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import GRU
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[4.0, -1.0], [-1.0, 1.0]], dtype=torch.float64),
        ...     names=("forget", "retain"),
        ... )
        >>> GRU(forget="forget", retain="retain")(statistics).weights.tolist()
        [1.0, 1.0]

    Source: Y. Wang, Q. Wang, F. Liu, W. Huang, Y. Du, X. Du and B. Han, "GRU: Mitigating the
    Trade-off between Unlearning and Retention for LLMs", ICML 2025 (arXiv 2503.09117). We differ:
    g_r is this step's retain gradient, where the authors' code keeps an exponential moving average
    of it: `moopt.aggregators.GradientEMA(GRU(...), beta={"retain": 0.95})` does so. Several
    objectives in one role are ours.
    """

    cosine_clip: float | None = None

    name: ClassVar[str] = "GRU"
    source: ClassVar[str] = (
        "Y. Wang, Q. Wang, F. Liu, W. Huang, Y. Du, X. Du and B. Han, GRU: Mitigating the Trade-off"
        " between Unlearning and Retention for LLMs, ICML 2025"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cosine_clip is not None:
            check_number(
                self.name, "cosine_clip", self.cosine_clip, "in [-1, 0]", use="None or -0.5"
            )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair:
            promises |= {Guarantee.SCALE_EQUIVARIANT, Guarantee.IDEMPOTENT}
            if self.cosine_clip is None:
                promises.add(Guarantee.NON_CONFLICTING)
        return frozenset(promises)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        forget, retain = self.positions(statistics)
        weights = gru_weights(
            gramian, forget=forget, retain=retain, cosine_clip=self.cosine_clip, active=active
        )
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
