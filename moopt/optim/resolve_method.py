"""resolve_method: None, a registered name or an instance, as a method."""

from moopt.aggregators import AGGREGATORS, GradientAggregator
from moopt.aggregators.base import Method
from moopt.scalarizations import SCALARIZATIONS
from moopt.weightings import MGDA, WEIGHTINGS, Weighting, weighting_from_name
from moopt.weightings.base import refuse_old_contract


def resolve_method(weighting: Method | str | None) -> Method:
    """The weighting (or gradient aggregator) meant by an argument.

    Args:
        weighting: an instance, the registered name of a weighting, scalarization or aggregator,
            or None for the default method.

    Raises:
        TypeError: something else, for instance the class instead of an instance.
        ValueError: an unknown name.
    """
    if weighting is None:
        return MGDA(normalize="l2")  # why: docs/choosing.md, "The default"
    if isinstance(weighting, str):
        return weighting_from_name(weighting, {**WEIGHTINGS, **SCALARIZATIONS, **AGGREGATORS})
    if isinstance(weighting, type) and issubclass(weighting, Weighting | GradientAggregator):
        raise TypeError(
            f"`weighting` must be an instance; got the class {weighting.__name__}. Write"
            f" {weighting.__name__}()."
        )
    if not isinstance(weighting, Weighting | GradientAggregator):
        raise TypeError(
            "`weighting` must be a moopt weighting, its registered name or None; got"
            f" {type(weighting).__name__}. Pass for instance moopt.MGDA()."
        )
    if isinstance(weighting, Weighting):
        refuse_old_contract(weighting)
    return weighting
