"""EUPMU: forget while the step raises no loss to retain, learned from the losses alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from moopt.scalarizations.base import differentiated
from moopt.scalarizations.constrained import MULTIPLIERS, ConstrainedScalarization
from moopt.settings.fields import number
from moopt.settings.numbers import check_number
from moopt.weightings.base import Array, Problem, Solved, State, StateEntry

LOSSES = "losses"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EUPMU(ConstrainedScalarization):
    """Weigh forgetting by 1 and retaining by w, moved by what each step did to the retain loss.

    Use it for unlearning where no step may raise the retain loss. Among the directions with
    `g_r . d >= -eps`, the nearest to the forget gradient is `d = g_f + w g_r`, where `w >= 0`
    minimises `||g_f + w g_r||^2 / 2 + w eps`. The slope of that in w, `g_r . d + eps`, is read off
    the losses: a step of plain gradient descent lowers the retain loss by `lr g_r . d` to first
    order. After `optimizer.step()`, compute the losses of the *same batch* again and call
    `optimizer.observe(losses)`:

        w <- max(0, w - step_size ((loss_r before - loss_r after) / lr + eps))

    So w grows where the retain loss rose by more than `eps lr` in the step, and falls where it rose
    less, or fell: that is the constraint which it settles at. One backward pass and one more
    forward pass; without `observe` w stays as it was, and `CommonDescent` warns. Several
    objectives to retain have a w each; those to forget are added up.

    Args:
        forget: the name of the objective whose *minimised* loss forgets, or several names.
        retain: the name of the objective to preserve, or several names.
        lr: alpha, finite, > 0: the learning rate of the wrapped optimizer. There is no default.
        eps: the tolerance, finite, >= 0: a step may raise a loss to retain by `eps lr`; default 0.
        step_size: beta, of w, finite, >= 0; default 0.1. Beyond `2 / ||g_r||^2` w swings.
        initial: w at the start, finite, >= 0; default 0, plain forgetting, as in the authors' code.

    Raises:
        TypeError: if a name is not a string or a setting not a number.
        ValueError: if a role is empty, an objective has two, or a setting is out of range; at the
            call, if the step has no losses, no names, or an objective without a role.

    Numerics: losses of any sign. An absent objective keeps its w; one that is not finite before or
    after the step teaches nothing. Leave `observe` out after a step that a GradScaler skipped. An
    optimizer that rescales the step (Adam) makes `lr` a unit: `step_size` and `eps` count in it.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import EUPMU
        >>> weighting = EUPMU(forget="forget", retain="retain", lr=0.1)
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.eye(2), losses=torch.tensor([3.0, 1.5]), names=("forget", "retain")
        ... )
        >>> weights, state, _ = weighting(statistics)
        >>> state = weighting.observe(state, torch.tensor([1.0, 2.0]))  # retain rose by 5 lr
        >>> weights.tolist(), weighting(statistics, state).weights.tolist()
        ([1.0, 0.0], [1.0, 0.5])

    Source: S. Zhou, T. Yu, Z. Zhang, H. Chang, X. Zhou, D. Wu and H. Zhao, "Efficient
    Utility-Preserving Machine Unlearning with Implicit Gradient Surgery", NeurIPS 2025,
    https://arxiv.org/abs/2510.22124; its abstract states the constraint; the recursion has not been
    compared with its text (docs/open_points.md). The authors' code differs: it moves w by Adam with
    weight decay and cuts off at 0 only where w is used, takes the losses' logarithms, *subtracts*
    its `error` where eps is added (so that a positive one asks the retain loss to fall), divides by
    the learning rate as an option, and in one version by `1 + w`. The default of `step_size` is
    ours.
    """

    lr: float
    eps: float = number(0.0, "finite and >= 0")
    step_size: float = number(0.1, "finite and >= 0")

    example: ClassVar[Mapping[str, Any]] = {**ConstrainedScalarization.example, "lr": 0.01}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "lr", self.lr, "finite and > 0", use="that of the optimizer")

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {**super().state_entries, LOSSES: StateEntry(1, np.inf)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """1 to forget and w to retain; the losses wait for those after the step."""
        assert problem.losses is not None
        retained, multipliers = self._retained(problem), state[MULTIPLIERS]
        # What forgets has no multiplier.
        before = np.where(retained, problem.losses, np.inf)
        weights = np.where(retained, multipliers, 1.0)
        return differentiated(weights, {MULTIPLIERS: multipliers, LOSSES: before})

    def unweighed(self, state: State) -> State:
        """The state with no losses to learn from: those of an earlier step are out of date."""
        return {**state, LOSSES: np.full_like(state[LOSSES], np.inf)}

    def learn(self, state: State, losses_after: Array, names: Sequence[str] | None) -> State:
        """One projected step of each w, from the losses before and after the update."""
        multipliers, before = state[MULTIPLIERS], state[LOSSES]
        with np.errstate(all="ignore"):
            fall = (before - losses_after) / self.lr
            moved = np.maximum(multipliers - self.step_size * (fall + self.eps), 0.0)
        known = np.isfinite(before) & np.isfinite(losses_after) & np.isfinite(moved)
        return self.unweighed({**state, MULTIPLIERS: np.where(known, moved, multipliers)})
