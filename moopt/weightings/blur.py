"""BLUR: the retain gradient with a quota of forgetting."""

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


def blur_weights(
    gramian: Tensor,
    *,
    forget: Sequence[int],
    retain: Sequence[int],
    gamma: float = 1.0,
    at_least: bool = False,
    active: Tensor | None = None,
) -> Tensor:
    """Return the weights of the vector nearest to g_r that meets the forget quota.

    `d = g_r + (gamma - g_r . g_f / ||g_f||^2) g_f` solves `min ||d - g_r||` subject to
    `g_f . d = gamma ||g_f||^2`; with `at_least`, subject to `g_f . d >= gamma ||g_f||^2`, by
    taking the bracket's positive part.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        forget: the positions of the forget objectives; g_f is the sum of their gradients.
        retain: the positions of the retain objectives; g_r is the sum of their gradients.
        gamma: the quota, relative to ||g_f||^2, >= 0.
        at_least: see above.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.

    Returns:
        float64 `[..., m]`; uniform over the active objectives where the Gramian is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.blur import blur_weights
        >>> G = torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64)
        >>> blur_weights(G, forget=[0], retain=[1]).tolist()
        [2.0, 1.0]
    """
    sums = role_sums(gramian.detach(), (forget, retain), active)
    forgets, retains = sums.norms.unbind(-1)
    has_forget = forgets > 0
    along = sums.cosines[..., 0, 1] * retains / torch.where(has_forget, forgets, 1.0)
    bracket = gamma - along
    if at_least:
        bracket = bracket.clamp_min(0.0)
    on_retain = (retains > 0).to(bracket.dtype)
    return sums.weights(torch.stack([torch.where(has_forget, bracket, 0.0), on_retain], -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLUR(ForgetRetain):
    """Bi-level unlearning: forgetting first, at a fixed rate, and retention with what is free.

    `d = g_r + (gamma - g_r . g_f / ||g_f||^2) g_f`, the vector nearest to g_r with
    `g_f . d = gamma ||g_f||^2`: a step of size lr lowers the forget loss, to first order, by
    `lr gamma ||g_f||^2`, as `gamma` steps of plain descent on it would. The retain loss may rise.

    Signs: moopt minimises every loss, so g_f is the gradient of the *minimised* forget loss: for
    gradient ascent on the cross-entropy of the forget set, give the negated cross-entropy.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: their gradients are added up.
        gamma: the quota, >= 0 and finite; default 1.0, the authors' default.
        at_least: keep more forgetting than the quota where g_r alone already brings it, by
            `max(0, .)` around the bracket. Our option; default False, the authors' equality.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two, or `gamma` is out of range; at the
            call, if the step has no names or an objective without a role.

    Numerics: without a forget gradient d is g_r; without a retain gradient d is gamma g_f. The
    bracket grows with ||g_r|| / ||g_f||. NaN or infinity among the active rows gives uniform
    weights. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import BLUR
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[1.0, -1.0], [-1.0, 4.0]], dtype=torch.float64),
        ...     names=("forget", "retain"),
        ... )
        >>> BLUR(forget="forget", retain="retain")(statistics).weights.tolist()
        [2.0, 1.0]

    Source: H. Reisizadeh, J. Jia, Z. Bu, B. Vinzamuri, A. Ramakrishna, K.-W. Chang, V. Cevher, S.
    Liu and M. Hong, "BLUR: A Bi-Level Optimization Approach for LLM Unlearning", EACL 2026
    (arXiv 2506.08164). The authors' code clips the gradient before it is written, which
    voids the quota; we leave clipping to the caller. Several objectives in one role are ours.
    """

    gamma: float = 1.0
    at_least: bool = False

    name: ClassVar[str] = "BLUR"
    source: ClassVar[str] = (
        "H. Reisizadeh, J. Jia, Z. Bu, B. Vinzamuri, A. Ramakrishna, K.-W. Chang, V. Cevher, S. Liu"
        " and M. Hong, BLUR: A Bi-Level Optimization Approach for LLM Unlearning, EACL 2026"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(
            self.name,
            "gamma",
            self.gamma,
            "finite and >= 0",
            use="1.0, and a forget loss that falls as the model forgets",
        )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair and self.gamma == 1.0:
            promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        forget, retain = self.positions(statistics)
        weights = blur_weights(
            gramian,
            forget=forget,
            retain=retain,
            gamma=self.gamma,
            at_least=self.at_least,
            active=active,
        )
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
