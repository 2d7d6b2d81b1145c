"""UnreadRecord: a step record whose numbers lie on a device until somebody looks."""

from collections.abc import Callable
from typing import Any

from moopt.records.step_record import StepRecord

_ON_DEVICE = frozenset(
    {
        *("losses", "weights", "gramian", "active", "stationarity", "status", "gap", "descent"),
        *("fell_back", "fallbacks", "rises", "step"),
    }
)


class UnreadRecord(StepRecord):
    """A `StepRecord` that reads the device when it is first looked at, and is one from then on.

    Args:
        read: returns the fields that the device knows; it is called once.
        known: the other fields.

    Example:
        >>> from moopt.records.unread import UnreadRecord
        >>> record = UnreadRecord(lambda: {"step": 3}, names=("a",))
        >>> record.names, type(record).__name__
        (('a',), 'UnreadRecord')
        >>> record.step, type(record).__name__
        (3, 'StepRecord')
    """

    def __init__(self, read: Callable[[], dict[str, Any]], **known: Any) -> None:
        super().__init__(**known)
        self.__dict__["_fill"] = read

    def __getattribute__(self, name: str) -> Any:
        if name in _ON_DEVICE:
            vars(self).update(vars(self).pop("_fill")())
            object.__setattr__(self, "__class__", StepRecord)
        return object.__getattribute__(self, name)

    def again(self) -> "UnreadRecord":
        """Another record of the same numbers, as they will be when it is looked at."""
        kept = dict(vars(self))
        return UnreadRecord(kept.pop("_fill"), **kept)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.status  # noqa: B018  (a copy, or a pickle, is of the numbers)
        return self.__reduce_ex__(protocol)  # a StepRecord's by now
