"""EUPMU: forget while the step raises no loss to retain, learned from the losses alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations.base import State, objective_losses
from moopt.scalarizations.constrained import MULTIPLIERS, ConstrainedScalarization
from moopt.settings.numbers import check_number
from moopt.weightings import WeightingOutput

LOSSES = "losses"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EUPMU(ConstrainedScalarization):
    """Implicit gradient surgery: weights 1 and w, w moved by what the step did to the retain loss.

    Among the directions with `g_r . d >= -eps`, the nearest to the forget gradient is
    `d = g_f + w g_r`, where `w >= 0` minimises `||g_f + w g_r||^2 / 2 + w eps`. The slope of that
    in w, `g_r . d + eps`, is read off the losses: a step of plain gradient descent lowers the
    retain loss by `lr g_r . d` to first order. After `optimizer.step()`, compute the losses of the
    *same batch* again and call `optimizer.observe(losses)`:

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
    optimizer that rescales the step (Adam) makes `lr` a unit: `step_size` and
    `eps` count in it. No synchronisation.

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
    Utility-Preserving Machine Unlearning with Implicit Gradient Surgery", NeurIPS 2025 (arXiv
    2510.22124); its abstract states the constraint, and the recursion is from notes on the paper,
    not compared with its text. The authors' code differs: it moves w by Adam with weight decay and
    cuts off at 0 only where w is used, takes the losses' logarithms, *subtracts* its `error` where
    eps is added (so that a positive one asks the retain loss to fall), divides by the learning
    rate as an option, and in one version by `1 + w`. The default of `step_size` is ours.
    """

    lr: float
    eps: float = 0.0
    step_size: float = 0.1

    name: ClassVar[str] = "EUPMU"
    source: ClassVar[str] = (
        "S. Zhou, T. Yu, Z. Zhang, H. Chang, X. Zhou, D. Wu and H. Zhao, Efficient"
        " Utility-Preserving Machine Unlearning with Implicit Gradient Surgery, NeurIPS 2025"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "lr", self.lr, "finite and > 0", use="that of the optimizer")
        check_number(self.name, "eps", self.eps, "finite and >= 0", use="0")
        check_number(self.name, "step_size", self.step_size, "finite and >= 0", use="0.1")

    @property
    def observes(self) -> bool:
        return True

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {MULTIPLIERS: 1, LOSSES: 1}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Every w `initial`, and no losses yet (infinity)."""
        start = super().initial_state(num_objectives, device)
        return start | {LOSSES: torch.full_like(start[MULTIPLIERS], float("inf"))}

    def __call__(self, statistics: StepStatistics, state: State | None = None) -> WeightingOutput:
        output = super().__call__(statistics, state)
        assert output.result is not None
        losses, active = objective_losses(statistics, self.name)
        sound = (output.result.status == int(SolverStatus.CONVERGED))[..., None]
        # What came before an unsound step is out of date; what forgets has no multiplier.
        learned = sound & active & self._retained(statistics.names, losses)
        before = torch.where(learned, losses, float("inf"))
        return output._replace(state=output.state | {LOSSES: before})

    def observe(
        self,
        state: State,
        losses_after: Tensor,
        *,
        names: tuple[str, ...] | None = None,
    ) -> State:
        """One projected step of each w, from the losses before and after the update."""
        former, before = state[MULTIPLIERS], state[LOSSES]
        rates = (before - losses_after.detach().to(before)) / self.lr
        moved = (former - self.step_size * (rates + self.eps)).clamp_min(0.0)
        known = before.isfinite() & moved.isfinite()
        return {
            MULTIPLIERS: torch.where(known, moved, former),
            LOSSES: torch.full_like(before, float("inf")),
        }
