"""PreferredScalarization: what scalarizations with a preference vector have in common."""

import dataclasses

import numpy as np

from moopt.records.result import Array
from moopt.scalarizations.base import Scalarization
from moopt.settings.preference import (
    Preference,
    checked_preference,
    checked_vector,
    names_needed,
)
from moopt.weightings import Guarantee, Problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferredScalarization(Scalarization):
    """A scalarization with a preference, by position or by objective name.

    By name, it may name objectives that are absent.
    """

    preference: Preference | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "preference", checked_preference(self.preference, self.name))

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # A number that belongs to a position stays there when the objectives are permuted.
        positional = any(isinstance(given, tuple) for given in self._vectors)
        return frozenset() if positional else super().guarantees

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | names_needed(*self._vectors)

    @property
    def _vectors(self) -> tuple[Preference | None, ...]:
        return (self.preference,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferencedScalarization(PreferredScalarization):
    """The same with a reference point, from which the losses count."""

    reference: Preference | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        reference = checked_vector(self.reference, self.name, "reference")
        object.__setattr__(self, "reference", reference)

    @property
    def _vectors(self) -> tuple[Preference | None, ...]:
        return (self.preference, self.reference)

    def _above_reference(self, problem: Problem) -> Array:
        """`loss - z`, float64 `[m]`."""
        assert problem.losses is not None
        if self.reference is None:
            return problem.losses
        return problem.losses - problem.vector(self.reference, self.name, "reference")


def unit_vector(vector: Array) -> Array:
    """A vector >= 0 divided by its length, at any scale; NaN where all of it is 0."""
    scaled = vector / vector.max()
    return scaled / np.linalg.norm(scaled)
