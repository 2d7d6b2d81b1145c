"""PDU: forget while each loss to retain stays below a bound, by dual ascent."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from moopt.scalarizations.base import differentiated
from moopt.scalarizations.constrained import MULTIPLIERS, ConstrainedScalarization
from moopt.settings.fields import number
from moopt.settings.numbers import check_number
from moopt.weightings.base import Problem, Solved, State, StateEntry

NUM_STEPS = "num_steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PDU(ConstrainedScalarization):
    """Minimise `loss_f` subject to `loss_r <= eps`, by weights 1 and lambda (primal-dual).

    Use it for unlearning with a bound on the retain loss. The step goes along the gradient of the
    Lagrangian `loss_f + lambda (loss_r - eps)`, and lambda then follows the constraint, with the
    losses of that same step:

        lambda <- max(0, lambda + step_size (loss_r - eps))

    A loss to retain above its bound gets more weight in every step, one below it less, down to 0:
    the constraint then costs nothing. Several objectives to retain have a lambda each; those to
    forget are added up.

    Args:
        forget: the name of the objective whose *minimised* loss forgets, or several names.
        retain: the name of the objective that is bounded (the paper's is the cross-entropy on the
            retain set), or several names.
        eps: the bound on every loss to retain, finite, >= 0. There is no default: below what the
            model can reach, lambda grows for ever. The loss before unlearning is a guide.
        step_size: of lambda, finite, >= 0; default 1, the authors' code's.
        initial: lambda at the start, finite, >= 0; default 1, the authors' code's.
        warmup_steps: an int >= 0: how many steps of an objective leave its lambda as it is;
            default 0.

    Raises:
        TypeError: if a name is not a string or a setting not a number.
        ValueError: if a role is empty, an objective has two, or a setting is out of range; at the
            call, if the step has no losses, no names, or an objective without a role.

    Numerics: losses of any sign. An absent objective keeps its lambda. A step whose losses are not
    finite leaves every lambda; one that a GradScaler skips moves them, since the losses are known
    and the gradients not yet. A lambda that would overflow stays.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import PDU
        >>> weighting = PDU(forget="forget", retain="retain", eps=0.5, step_size=0.1)
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.eye(2), losses=torch.tensor([3.0, 1.5]), names=("forget", "retain")
        ... )
        >>> weights, state, _ = weighting(statistics)
        >>> weights.tolist(), weighting(statistics, state).weights.tolist()
        ([1.0, 1.0], [1.0, 1.1])

    Source: T. Entesari, A. Hatami, R. Khaziev, A. Ramakrishna and M. Fazlyab, "Constrained Entropic
    Unlearning: A Primal-Dual Framework for Large Language Models", 2025,
    https://arxiv.org/abs/2506.05314; the order of the two updates and the defaults are those of the
    authors' code (`PDU` of open-unlearning), which we compared with, not the paper's text. That
    code counts its warm-up in epochs, can update lambda once per epoch from the mean loss instead
    (not here), and leaves the weight of the forget loss to the user (here 1; scale the loss). Its
    forget loss, the logit margin, is a loss like any other.
    """

    eps: float
    step_size: float = number(1.0, "finite and >= 0")
    initial: float = number(1.0, "finite and >= 0")
    warmup_steps: int = 0

    example: ClassVar[Mapping[str, Any]] = {**ConstrainedScalarization.example, "eps": 0.5}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.name, "eps", self.eps, "finite and >= 0", use="the loss to stay below")
        if not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
            raise ValueError(
                f"`warmup_steps` of `PDU` must be an int >= 0; got {self.warmup_steps!r}. Use 0."
            )

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {**super().state_entries, NUM_STEPS: StateEntry(1, 0, int)}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """1 to forget and lambda to retain, and the next lambda."""
        assert problem.losses is not None
        retained = self._retained(problem)
        multipliers, count = state[MULTIPLIERS], state[NUM_STEPS]
        moved = np.maximum(multipliers + self.step_size * (problem.losses - self.eps), 0.0)
        moves = retained & (count >= self.warmup_steps) & np.isfinite(moved)
        next_state = {MULTIPLIERS: np.where(moves, moved, multipliers), NUM_STEPS: count + 1}
        return differentiated(np.where(retained, multipliers, 1.0), next_state)
