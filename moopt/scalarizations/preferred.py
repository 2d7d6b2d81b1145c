"""PreferredScalarization: what scalarizations with a preference and a reference have in common."""

import dataclasses

import numpy as np

from moopt.scalarizations.base import Scalarization
from moopt.settings.fields import per_objective
from moopt.settings.preference import Preference, checked_vector
from moopt.weightings.base import Array, Problem


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferredScalarization(Scalarization):
    """A scalarization with a preference, and a reference point from which the losses count.

    Both go by position or by objective name; by name, they may name objectives that are absent.
    """

    preference: Preference | None = per_objective()
    reference: Preference | None = per_objective(checked_vector)

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
