"""NGDiff: the sum of the unit forget and the unit retain gradient."""

import dataclasses

from moopt.weightings.base import Array, Guarantee, Problem, State
from moopt.weightings.forget_retain import ForgetRetain


@dataclasses.dataclass(frozen=True, kw_only=True)
class NGDiff(ForgetRetain):
    """Add the unit gradients of forgetting and retaining: `d = g_f / ||g_f|| + g_r / ||g_r||`.

    Use it for unlearning where both should move at the same rate. It is the normalised gradient
    difference of the paper.

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
        ValueError: if a role is empty, or an objective has two; at the call, if an objective of
            the step has none.

    Numerics: a role that is absent, or whose sum is zero up to rounding, drops out, and d is the
    unit gradient of the other.

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
    adaptive learning rate", NAACL 2025, https://arxiv.org/abs/2410.22086. The paper's automatic
    learning rate is not part of the weighting. Several objectives in one role are our addition.
    """

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

    def weigh(self, problem: Problem, state: State) -> Array:
        """The reciprocal norm of each sum."""
        sums = self.sums(problem)
        return sums.weights(*(1.0 / n if n > 0.0 else 0.0 for n in (sums.forget, sums.retain)))
