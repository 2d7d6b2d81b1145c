"""GradientAggregator: the contract of methods that need the gradients themselves."""

from typing import ClassVar, TypeAlias

from moopt.weightings import Guarantee, Weighting
from moopt.weightings.declared import DeclaredMethod


class GradientAggregator(DeclaredMethod):
    """A map from m gradients to one direction that the Gramian of one step cannot express.

    It works entry by entry (`EntrywiseAggregator`), or it keeps a row per objective from step to
    step, such as an average of its gradients (`TrackingAggregator`). Subclasses are frozen
    keyword-only dataclasses. `CommonDescent` takes one in place of a weighting. Parameters that one
    objective alone reaches take that gradient, as always. The record measures `g_i . d` itself, so
    that `descent` and `raised` are known. None of them promises common descent.

    They never raise on numerical trouble: gradients that are not finite make the direction not
    finite, and change nothing that is kept.

    Class attributes:
        name, source, year: those of the class and of its docstring, as for a
            `moopt.weightings.Weighting`.
        example: settings without a default, each with an example for three objectives named
            "forget", "retain" and "third".

    Properties:
        guarantees: the promises under the configured hyper-parameters; see
            `moopt.weightings.Guarantee`.
        needs: which optional fields of a step must be present ("names", "losses").
        state_entries: what is kept from step to step beside the rows, by key; see
            `moopt.weightings.StateEntry`.

    Example:
        >>> from moopt.aggregators import AGGREGATORS, GradientAggregator
        >>> isinstance(AGGREGATORS["MoCo"].build(beta=0.3), GradientAggregator)
        True
    """

    observes: ClassVar[bool] = False
    combines_auxiliary: ClassVar[bool] = False

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """What holds for all gradients; common descent never does, it is measured instead."""
        return frozenset()


Method: TypeAlias = Weighting | GradientAggregator
"""What `CommonDescent` accepts."""
