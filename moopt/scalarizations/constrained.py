"""ConstrainedScalarization: forget under a constraint on each loss to retain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from moopt.scalarizations.base import Scalarization, State
from moopt.settings.numbers import check_number
from moopt.settings.roles import membership, positions_of
from moopt.weightings import Guarantee
from moopt.weightings.forget_retain import ForgetRetain

MULTIPLIERS = "multipliers"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConstrainedScalarization(ForgetRetain, Scalarization):
    """The Lagrangian `sum_f loss_f + sum_r lambda_r loss_r`: weight 1 to forget, lambda to retain.

    Each objective to retain has a multiplier lambda >= 0 of its own, which a subclass moves. It
    belongs to the objective's name; that of an objective to forget stays as it was.
    """

    initial: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        use = f"{type(self).initial:g}"
        check_number(self.name, "initial", self.initial, "finite and >= 0", use=use)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """None: weights go by role and by what the losses were, not by gradients."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses", "names"})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {MULTIPLIERS: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Every multiplier `initial`."""
        shape = (num_objectives,)
        return {MULTIPLIERS: torch.full(shape, self.initial, dtype=torch.float64, device=device)}

    def _retained(self, names: tuple[str, ...] | None, losses: Tensor) -> Tensor:
        """bool `[m]`: the objectives to retain."""
        _, retain = positions_of(names, self._roles, self.name)
        return membership(retain, losses.shape[-1], losses.device)

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        multipliers = state[MULTIPLIERS].expand(losses.shape)
        return torch.where(self._retained(names, losses), multipliers, 1.0), state
