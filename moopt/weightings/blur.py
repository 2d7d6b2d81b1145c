"""BLUR: the retain gradient with a quota of forgetting."""

import dataclasses

from moopt.settings.fields import number
from moopt.weightings.base import Array, Guarantee, Problem, State
from moopt.weightings.forget_retain import ForgetRetain


@dataclasses.dataclass(frozen=True, kw_only=True)
class BLUR(ForgetRetain):
    """Forget at a fixed rate first, and retain with what is free: bi-level unlearning.

    Use it where forgetting has a quota that must be met, even if the retain loss rises for it.

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
            call, if an objective of the step has no role.

    Numerics: without a forget gradient d is g_r; without a retain gradient d is gamma g_f. The
    bracket grows with ||g_r|| / ||g_f||.

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
    Liu and M. Hong, "BLUR: A Bi-Level Optimization Approach for LLM Unlearning", EACL 2026,
    https://arxiv.org/abs/2506.08164. The authors' code clips the gradient before it is written,
    which voids the quota; we leave clipping to the caller. Several objectives in one role are our
    addition.
    """

    gamma: float = number(1.0, "finite and >= 0")
    at_least: bool = False

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair and self.gamma == 1.0:
            promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Array:
        """1 on g_r, and on g_f the share of the quota that g_r leaves open."""
        sums = self.sums(problem)
        on_retain = float(sums.retain > 0.0)
        if sums.forget == 0.0:
            return sums.weights(0.0, on_retain)
        bracket = self.gamma - sums.cosine * sums.retain / sums.forget
        return sums.weights(max(0.0, bracket) if self.at_least else bracket, on_retain)
