"""ForgetRetain: the base of methods that forget some objectives and preserve the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from moopt.records.step_statistics import StepStatistics
from moopt.settings.roles import refuse_overlap, role_names, role_positions
from moopt.weightings.base import Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetRetain(Weighting):
    """The base of methods for unlearning: every objective is to be forgotten or retained.

    Args:
        forget: the name of the objective whose *minimised* loss forgets, or several names.
        retain: the name of the objective whose loss preserves, or several names.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two; at the call, if the step has no
            names or an objective without a role.
    """

    forget: str | Sequence[str]
    retain: str | Sequence[str]

    def __post_init__(self) -> None:
        for keyword in ("forget", "retain"):
            names = role_names(getattr(self, keyword), keyword, self.name)
            object.__setattr__(self, keyword, names)
        refuse_overlap(self._roles, self.name)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"names"})

    @property
    def is_pair(self) -> bool:
        """Whether each role has one objective: what a paper proves for two gradients holds."""
        return len(self.forget) == len(self.retain) == 1

    @property
    def _roles(self) -> dict[str, tuple[str, ...]]:
        return {"forget": tuple(self.forget), "retain": tuple(self.retain)}

    def positions(self, statistics: StepStatistics) -> tuple[list[int], ...]:
        """The positions (forget, retain) of the objectives that this step has."""
        return role_positions(statistics, self._roles, self.name)
