"""ConstrainedScalarization: forget under a constraint on each loss to retain."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from moopt.scalarizations.base import Scalarization
from moopt.settings.fields import number
from moopt.settings.roles import positions_of
from moopt.weightings.base import Guarantee, Problem, StateEntry
from moopt.weightings.forget_retain import ForgetRetain

MULTIPLIERS = "multipliers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstrainedScalarization(ForgetRetain, Scalarization):
    """The Lagrangian `sum_f loss_f + sum_r lambda_r loss_r`: weight 1 to forget, lambda to retain.

    Each objective to retain has a multiplier lambda >= 0 of its own, which a subclass moves. It
    belongs to the objective's name; that of an objective to forget stays as it was.
    """

    initial: float = number(0.0, "finite and >= 0")

    # None: weights go by role and by what the losses were, not by gradients.
    guarantees: ClassVar[frozenset[Guarantee]] = frozenset()
    needs = frozenset({"losses", "names"})

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {MULTIPLIERS: StateEntry(1, self.initial)}

    def _retained(self, problem: Problem) -> NDArray[np.bool_]:
        """bool `[m]`: the objectives to retain."""
        _, retain = positions_of(problem.names, self._roles, self.name)
        return np.isin(np.arange(problem.m), retain)
