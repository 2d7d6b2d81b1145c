"""ForgetRetain: the base of methods that forget some objectives and preserve the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moopt.settings.fields import checked_by
from moopt.settings.roles import refuse_overlap, refuse_without_role, role_names
from moopt.weightings.base import Problem, Weighting
from moopt.weightings.declared import DeclaredMethod
from moopt.weightings.role_sums import RoleSums, role_sums


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetRetainRoles(DeclaredMethod):
    """The settings of methods for unlearning: every objective is to be forgotten or retained.

    Args:
        forget: the name of the objective whose *minimised* loss forgets, or several names.
        retain: the name of the objective whose loss preserves, or several names.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two.
    """

    forget: str | Sequence[str] = dataclasses.field(metadata=checked_by(role_names))
    retain: str | Sequence[str] = dataclasses.field(metadata=checked_by(role_names))

    example: ClassVar[Mapping[str, Any]] = {"forget": "forget", "retain": ("retain", "third")}

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetRetain(ForgetRetainRoles, Weighting):
    """The base of weightings for unlearning.

    Raises:
        ValueError: at the call, if an objective of the step has no role.
    """

    def members(self, problem: Problem) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The places in a problem of the objectives to forget, and of those to retain."""
        refuse_without_role(problem.all_names, self._roles, self.name)
        forget, retain = problem.members(self._roles)
        return forget, retain

    def sums(self, problem: Problem) -> RoleSums:
        """The sums of the gradients of each role."""
        return role_sums(problem, *self.members(problem))
