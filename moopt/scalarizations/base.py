"""Scalarization: weights that are the derivatives of one number made of the losses."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.solvers import SolverResult
from moopt.weightings import Guarantee, Weighting, WeightingOutput
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows

State = dict[str, Tensor]


class Scalarization(Weighting):
    """A weighting that looks at the losses only: `w_i = ds / dloss_i` for a scalar `s(losses)`.

    The gradient of `s` is `sum_i w_i g_i`, so one backward pass of `sum_i w_i loss_i` with fixed
    weights is the gradient of `s`: `CommonDescent` does just that one, and every parameter (task
    heads too) takes the weighted sum, as in training on `s`. The record of such a step knows
    losses and weights, and no gradient of a single objective.

    None of them promises common descent. Through `objective(...)` and `combine_()`, or with
    micro-batches (`accumulate=True`), the rows are there and the record is complete; the weights
    are those of the *summed* losses, since `s` of a sum is not the sum of the parts.

    A loss that is NaN or infinite gives uniform weights and status NON_FINITE; one for which the
    method has no derivative gives uniform weights and status OUT_OF_DOMAIN. Both leave the state
    as it was. With a single objective `CommonDescent` takes the wrapped optimizer's own step.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import GLS
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.eye(2), losses=torch.tensor([1.0, 4.0])
        ... )
        >>> [round(w, 12) for w in GLS()(statistics).weights.tolist()]
        [1.0, 0.25]
    """

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.PERMUTATION_EQUIVARIANT})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    @abc.abstractmethod
    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        """Weights and next state of one step.

        Args:
            losses: float64 `[..., m]`, finite, 1 where inactive.
            active: bool `[..., m]`.
            state: the present one.
            names: the `m` objective names, where the caller has them.
        """

    def __call__(self, statistics: StepStatistics, state: State | None = None) -> WeightingOutput:
        losses, active = objective_losses(statistics, type(self).__name__)
        if state is None:
            state = self.initial_state(statistics.num_objectives, losses.device)
        usable = torch.where(active, losses, 1.0)
        finite = torch.isfinite(usable).all(-1, keepdim=True)
        weights, following = self._weigh(
            torch.where(finite, usable, 1.0), active, state, statistics.names
        )
        weights = torch.where(active, weights, 0.0)
        defined = torch.isfinite(weights).all(-1, keepdim=True)
        good = finite & defined
        uniform = active.to(losses) / active.sum(-1, keepdim=True).clamp_min(1)
        weights = torch.where(good, weights, uniform)
        status = torch.where(defined, int(SolverStatus.CONVERGED), int(SolverStatus.OUT_OF_DOMAIN))
        status = torch.where(finite, status, int(SolverStatus.NON_FINITE)).squeeze(-1)
        gap = torch.full_like(weights[..., 0], float("nan"))
        axes: Mapping[str, int] = self.state_axes
        kept = {
            key: torch.where(good if axes[key] else good.all(), value, state[key])
            for key, value in following.items()
        }
        result = SolverResult(weights, status, gap, torch.zeros_like(status))
        return WeightingOutput(with_auxiliary_rows(weights, statistics), kept, result)


def objective_losses(statistics: StepStatistics, owner: str) -> tuple[Tensor, Tensor]:
    """float64 losses and bool mask, `[..., m]` each, on the Gramian's device.

    Raises:
        ValueError: the losses are missing.
    """
    gramian, active = objective_rows(statistics)
    if statistics.losses is None:
        raise ValueError(
            f"`{owner}` needs the losses; got none. Pass them in `StepStatistics.losses`, or to"
            " optimizer.objective(name, loss)."
        )
    shape = gramian.shape[:-1]
    losses = statistics.losses.detach().to(device=gramian.device, dtype=torch.float64)
    if active is None:
        active = torch.ones(shape, dtype=torch.bool, device=gramian.device)
    return losses.expand(shape), active.expand(shape)


def derivatives(scalar: Callable[..., Tensor], *arguments: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of a scalarization `[..., m] -> [...]` in each argument, `[..., m]`."""
    if torch.compiler.is_compiling():  # where leaves cannot be made
        numbers = tuple(range(len(arguments)))
        return torch.func.grad(lambda *values: scalar(*values).sum(), argnums=numbers)(*arguments)
    with torch.enable_grad():  # half the overhead of torch.func
        leaves = [argument.detach().requires_grad_() for argument in arguments]
        return torch.autograd.grad(scalar(*leaves).sum(), leaves)


def derivative(scalar: Callable[[Tensor], Tensor], losses: Tensor) -> Tensor:
    """`ds / dloss_i`, `[..., m]`."""
    return derivatives(scalar, losses)[0]


def mask_of(losses: Tensor, active: Tensor | None) -> Tensor:
    """bool like `losses`: the mask, and all True for None."""
    if active is None:
        return torch.ones_like(losses, dtype=torch.bool)
    return active.to(losses.device).expand(losses.shape)
