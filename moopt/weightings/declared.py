"""DeclaredMethod: what every method says of itself, and `Guarantee` and `StateEntry` to say it."""

import abc
import dataclasses
import enum
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.settings.fields import check_settings, checked_fields

_SOURCE = re.compile(r"^ *Source: (.+?)\s*(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")


class Guarantee(enum.Enum):
    """What a weighting promises for every Gramian; the conformance suite tests each claim.

    Rescaling an objective rescales its gradient and its loss alike. The columns are those of the
    tables in `docs/methods.md`.

    Example:
        >>> from moopt.weightings import MGDA, Guarantee
        >>> Guarantee.NON_CONFLICTING in MGDA().guarantees
        True
    """

    NON_CONFLICTING = "non-conflicting"
    """(G w)_i >= 0 for every active i, up to rounding; column *descent*, ✓."""
    NON_CONFLICTING_IF_INDEPENDENT = "non-conflicting for linearly independent gradients"
    """The same for every Gramian of linearly independent rows; other rows may break it, visibly;
    column *descent*, (✓)."""
    SIMPLEX = "simplex"
    """w >= 0 and sum(w) = 1 over the active objectives; column *simplex*."""
    SCALE_EQUIVARIANT = "scale-equivariant"
    """The direction does not turn when one objective is rescaled; column *any scale*."""
    POSITIVELY_HOMOGENEOUS = "positively homogeneous"
    """d(c J) = c d(J) for c > 0; column *homog.*"""
    PERMUTATION_EQUIVARIANT = "permutation-equivariant"
    """The order of the objectives does not change the direction; column *any order*."""
    ZERO_AT_STATIONARITY = "zero at stationarity"
    """d = 0 where zero is in the convex hull of the gradients; column *stops*."""
    IDEMPOTENT = "idempotent"
    """d = g where every gradient is the same g; implied by SIMPLEX; column *idemp.*"""


@dataclasses.dataclass(frozen=True)
class StateEntry:
    """One array that a method keeps from step to step.

    Attributes:
        axes: how many leading axes index objectives: 0 shared by all, 1 one entry each, 2 one per
            pair. By them the optimizer keeps each entry with its objective while objectives come
            and go.
        start: its value before the first step, or a function of the number of objectives.
        dtype: of its elements.

    Example:
        >>> from moopt.weightings import StateEntry
        >>> StateEntry(1, lambda m: 1 / m).array(2).tolist()
        [0.5, 0.5]
    """

    axes: int
    start: float | Callable[[int], float] = 0.0
    dtype: type = float

    def array(self, num_objectives: int) -> NDArray[Any]:
        """The array before the first step, for so many objectives."""
        start = self.start(num_objectives) if callable(self.start) else self.start
        return np.full((num_objectives,) * self.axes, start, dtype=self.dtype)


class DeclaredMethod(abc.ABC):
    """What weightings and gradient aggregators have in common: names, promises, needs, memory.

    `Weighting` describes it. What follows from a class is set when the class is made: the name of a
    method is that of its class, and its source and year are those of its docstring. A class
    attribute of its own goes first. The fields of `moopt.settings.fields` are checked when an
    instance is made.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    year: ClassVar[int | None] = None
    example: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not (hasattr(cls, "name") or cls._is_base()):
            cls.name = cls.__name__
        if found := _SOURCE.search(cls.__doc__ or ""):
            source = " ".join(found[1].split())
            year = _YEAR.search(source)
            told = {"source": source, "year": int(year[0]) if year else None}
            for key in told.keys() - vars(cls).keys():
                setattr(cls, key, told[key])

    @classmethod
    def _is_base(cls) -> bool:
        """Whether the class is not a method yet, but a kind of method, or leaves something open."""
        return DeclaredMethod in cls.__bases__ or inspect.isabstract(cls)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    @abc.abstractmethod
    def guarantees(self) -> frozenset[Guarantee]:
        """The promises that hold under the configured hyper-parameters."""

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        """The optional fields of a step that this configuration cannot do without.

        The names, where a setting with a check goes by name; a method that needs more says so.
        """
        values = [getattr(self, field.name) for field in checked_fields(self)]
        return frozenset({"names"} if any(isinstance(v, Mapping) for v in values) else ())

    @functools.cached_property
    def state_entries(self) -> Mapping[str, StateEntry]:
        """What is kept from step to step; empty for stateless methods."""
        return {}

    @property
    def state_axes(self) -> Mapping[str, int]:
        """Leading objective axes of each entry of the state; empty for stateless methods."""
        return {key: entry.axes for key, entry in self.state_entries.items()}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """The state before the first step: a flat dict of tensors; empty for stateless methods."""
        entries = self.state_entries.items()
        return {k: torch.from_numpy(e.array(num_objectives)).to(device) for k, e in entries}
