"""GRU: the forget gradient without the part that raises the retain loss."""

import dataclasses

from moopt.settings.fields import number
from moopt.weightings.base import Array, Guarantee, Problem, State
from moopt.weightings.forget_retain import ForgetRetain


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU(ForgetRetain):
    """Project the forget gradient off a conflicting retain gradient: rectified unlearning.

    Use it where the retain loss must not rise for the sake of forgetting.

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
            at the call, if an objective of the step has no role.

    Numerics: without a retain gradient d is g_f; without a forget gradient (or with a zero one) d
    is what is left, g_r.

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
    Trade-off between Unlearning and Retention for LLMs", ICML 2025,
    https://arxiv.org/abs/2503.09117. We differ: g_r is this step's retain gradient, where the
    authors' code keeps an exponential moving average of it:
    `moopt.aggregators.GradientEMA(GRU(...), beta={"retain": 0.95})` does so. Several objectives in
    one role are our addition.
    """

    cosine_clip: float | None = number(None, "in [-1, 0]", use="None or -0.5")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair:
            promises |= {Guarantee.SCALE_EQUIVARIANT, Guarantee.IDEMPOTENT}
            if self.cosine_clip is None:
                promises.add(Guarantee.NON_CONFLICTING)
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Array:
        """`d = g_f - min(0, c) ||g_f|| / ||g_r|| g_r`, c the cosine, after the clip."""
        sums = self.sums(problem)
        if sums.forget == 0.0:
            return sums.weights(0.0, float(sums.retain > 0.0))
        conflict = max(0.0, -sums.cosine)
        if self.cosine_clip is not None:
            conflict = min(conflict, -self.cosine_clip)
        return sums.weights(1.0, conflict * sums.forget / (sums.retain or 1.0))
