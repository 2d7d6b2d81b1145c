"""NGDiff: the sum of the unit forget and the unit retain gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.weightings.base import Guarantee, WeightingOutput
from moopt.weightings.forget_retain import ForgetRetain
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.role_sums import role_sums


def ngdiff_weights(
    gramian: Tensor,
    *,
    forget: Sequence[int],
    retain: Sequence[int],
    active: Tensor | None = None,
) -> Tensor:
    """Return the weights of `d = g_f / ||g_f|| + g_r / ||g_r||`.

    g_f is the sum of the active forget gradients, g_r that of the retain gradients; a sum that
    is zero or absent drops out.

    Args:
        gramian: float64 `[..., m, m]`, the inner products of the gradients.
        forget: the positions of the forget objectives.
        retain: the positions of the retain objectives.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.

    Returns:
        float64 `[..., m]`; uniform over the active objectives where the Gramian is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.ngdiff import ngdiff_weights
        >>> G = torch.tensor([[4.0, 0.0], [0.0, 0.25]], dtype=torch.float64)
        >>> ngdiff_weights(G, forget=[0], retain=[1]).tolist()
        [0.5, 2.0]
    """
    sums = role_sums(gramian.detach(), (forget, retain), active)
    present = sums.norms > 0
    return sums.weights(torch.where(present, 1.0 / torch.where(present, sums.norms, 1.0), 0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NGDiff(ForgetRetain):
    """Normalised gradient difference: `d = g_f / ||g_f|| + g_r / ||g_r||`.

    Forgetting and retaining get the same say whatever the sizes of their gradients: with one
    objective each, both cosines with d are equal, `sqrt((1 + cos(g_f, g_r)) / 2)`, so that neither
    rises. `||d|| <= 2` whatever the scale of the losses.

    Signs: moopt minimises every loss, so g_f is the gradient of the *minimised* forget loss. The
    paper subtracts the gradient of the cross-entropy L_F on the forget set; give `-L_F` (or any
    other loss that falls as the model forgets) as the forget objective.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: their gradients are added up.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two; at the call, if the step has no
            names or an objective without a role.

    Numerics: a role that is absent, or whose sum is zero up to rounding, drops out, and d is the
    unit gradient of the other. NaN or infinity among the active rows gives uniform weights. No
    synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import NGDiff
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.tensor([[4.0, 0.0], [0.0, 0.25]], dtype=torch.float64),
        ...     names=("forget", "retain"),
        ... )
        >>> NGDiff(forget="forget", retain="retain")(statistics).weights.tolist()
        [0.5, 2.0]

    Source: X. Jin, Z. Bu, B. Vinzamuri, A. Ramakrishna, K.-W. Chang, V. Cevher and M. Hong,
    "Unlearning as multi-task optimization: A normalized gradient difference approach with an
    adaptive learning rate", NAACL 2025 (arXiv 2410.22086). The paper's automatic learning rate is
    no part of the weighting. Several objectives in one role are ours.
    """

    name: ClassVar[str] = "NGDiff"
    source: ClassVar[str] = (
        "X. Jin, Z. Bu, B. Vinzamuri, A. Ramakrishna, K.-W. Chang, V. Cevher and M. Hong,"
        " Unlearning as multi-task optimization: A normalized gradient difference approach with an"
        " adaptive learning rate, NAACL 2025"
    )

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        if not self.is_pair:
            return frozenset()
        return frozenset(
            {
                Guarantee.NON_CONFLICTING,
                Guarantee.SCALE_EQUIVARIANT,
                Guarantee.PERMUTATION_EQUIVARIANT,
            }
        )

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        forget, retain = self.positions(statistics)
        weights = ngdiff_weights(gramian, forget=forget, retain=retain, active=active)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)
