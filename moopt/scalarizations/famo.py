"""FAMO: equal relative decrease of all losses, learned from the losses alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations.adam import AXES, adam_state, adam_step
from moopt.scalarizations.base import Scalarization, State, derivative, mask_of, objective_losses
from moopt.scalarizations.preference import Vector, frozen_vector, vector_in_order
from moopt.settings.numbers import check_number
from moopt.weightings import Guarantee, WeightingOutput

LOGITS = "logits"
LOG_LOSSES = "log_losses"


def famo(
    losses: Tensor,
    logits: Tensor,
    *,
    min_losses: Tensor | None = None,
    eps: float = 1e-8,
    active: Tensor | None = None,
) -> Tensor:
    """Normalised log-loss: `c sum_i z_i log(loss_i - b_i + eps)`, `z = softmax(logits)`.

    `c = 1 / sum_i (z_i / (loss_i - b_i + eps))` counts as a constant, so that the derivatives in
    the losses sum to 1.

    Args:
        losses: `[..., m]`, > b, floating point; differentiable.
        logits: `[m]`, the logits of the objectives.
        min_losses: `[m]`, b, lower bounds of the losses; None means 0.
        eps: >= 0, keeps the logarithm from minus infinity.
        active: bool `[..., m]`; the others have no influence. None means all active.

    Returns:
        `[...]`; NaN where a loss is not above its bound.

    Example:
        >>> import torch
        >>> from moopt.scalarizations import famo
        >>> losses = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> famo(losses, torch.zeros(2)).backward()
        >>> [round(w, 6) for w in losses.grad.tolist()]
        [0.8, 0.2]
    """
    on = mask_of(losses, active)
    above = torch.where(on, _above(losses, min_losses, eps), 1.0)
    # The lowest finite number, where -inf would make the softmax of no objective NaN.
    shares = logits.expand(losses.shape).masked_fill(~on, torch.finfo(losses.dtype).min).softmax(-1)
    shares = torch.where(on, shares, 0.0)
    scale = 1.0 / (shares / above.detach()).sum(-1)
    return scale * (shares * above.log()).sum(-1)


def _above(losses: Tensor, min_losses: Tensor | None, eps: float) -> Tensor:
    """`loss - b + eps`, and NaN where that is not positive."""
    above = losses + eps if min_losses is None else losses - min_losses + eps
    # A factor, so that the derivative is NaN too.
    return above * torch.where(above > 0, 1.0, float("nan")).to(above.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAMO(Scalarization):
    """Lower all losses at the same relative rate: `w_i = c z_i / (loss_i - b_i + eps)`.

    The derivative of `famo`: weights on the simplex. The logits learn from what the step did. After
    `optimizer.step()`, compute the losses of the *same batch* again and call

        optimizer.observe(losses)

    Adam then lowers the logits of the objectives whose logarithm fell most, along
    `d/dlogits sum_i softmax_i(logits) delta_i` with `delta_i = log(loss before) - log(loss after)`.
    Without `observe` the logits stay equal; `CommonDescent` warns then. It costs one forward pass
    more than plain training, whatever the number of objectives.

    Args:
        min_losses: b, lower bounds; a sequence in the order of the objectives, or a mapping from
            objective name; None means 0.
        lr: learning rate of the logits, >= 0; default 0.025, the paper's.
        weight_decay: gamma of the paper, >= 0; default 1e-3, the paper's (the official code uses
            1e-5). It draws the logits back to 0.
        eps: added under the logarithm, >= 0; default 1e-8, the official code's.

    Raises:
        TypeError: if `min_losses` are no numbers.
        ValueError: if a setting is out of range; at the call, if an objective has no bound.

    Numerics: a loss not above its bound gives status OUT_OF_DOMAIN and uniform weights; an
    objective that is not finite before or after the step teaches the logits nothing. No
    synchronisation.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import FAMO
        >>> weighting, losses = FAMO(), torch.tensor([1.0, 4.0], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2), losses=losses)
        >>> weights, state, _ = weighting(statistics)
        >>> [round(w, 6) for w in weights.tolist()]
        [0.8, 0.2]
        >>> state = weighting.observe(state, torch.tensor([0.5, 4.0]))  # the first fell
        >>> bool(weighting(statistics, state).weights[0] < weights[0])
        True

    Source: B. Liu, Y. Feng, P. Stone and Q. Liu, "FAMO: Fast Adaptive Multitask Optimization",
    NeurIPS 2023.
    """

    min_losses: Vector | None = None
    lr: float = 0.025
    weight_decay: float = 1e-3
    eps: float = 1e-8

    name: ClassVar[str] = "FAMO"
    source: ClassVar[str] = (
        "B. Liu, Y. Feng, P. Stone and Q. Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS"
        " 2023"
    )

    def __post_init__(self) -> None:
        bounds = frozen_vector(self.min_losses, "`min_losses` of `FAMO`", preference=False)
        object.__setattr__(self, "min_losses", bounds)
        for field in ("lr", "weight_decay", "eps"):
            value, default = getattr(self, field), getattr(type(self), field)
            check_number(self.name, field, value, "finite and >= 0", use=f"{default:g}")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        positional = isinstance(self.min_losses, tuple)
        simplex = frozenset({Guarantee.SIMPLEX, Guarantee.IDEMPOTENT})
        return simplex if positional else simplex | super().guarantees

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"names"} if isinstance(self.min_losses, dict) else set())

    @property
    def observes(self) -> bool:
        return True

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {LOGITS: 1, LOG_LOSSES: 1, **AXES}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """Equal logits, and no losses yet (infinity)."""
        zero = torch.zeros(num_objectives, dtype=torch.float64, device=device)
        return {LOGITS: zero, LOG_LOSSES: zero + float("inf"), **adam_state(zero)}

    def __call__(self, statistics: StepStatistics, state: State | None = None) -> WeightingOutput:
        output = super().__call__(statistics, state)
        assert output.result is not None
        losses, active = objective_losses(statistics, "FAMO")
        usable = (output.result.status == int(SolverStatus.CONVERGED))[..., None] & active
        # A step that is not sound teaches nothing, and what came before it is out of date.
        logarithms = torch.where(usable, self._log(losses, statistics.names), float("inf"))
        return output._replace(state=output.state | {LOG_LOSSES: logarithms})

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        logits, bounds = state[LOGITS], self._bounds(losses, names)
        weights = derivative(
            lambda values: famo(values, logits, min_losses=bounds, eps=self.eps, active=active),
            losses,
        )
        return weights, state

    def observe(
        self,
        state: State,
        losses_after: Tensor,
        *,
        names: tuple[str, ...] | None = None,
    ) -> State:
        """One step of Adam on the logits, from the losses before and after the update."""
        before = state[LOG_LOSSES]
        after = self._log(losses_after.detach().to(before), names)
        known = before.isfinite() & after.isfinite()
        delta = torch.where(known, before - after, 0.0)
        shares = state[LOGITS].masked_fill(~known, torch.finfo(before.dtype).min).softmax(-1)
        shares = torch.where(known, shares, 0.0)
        slope = shares * (delta - (shares * delta).sum(-1, keepdim=True))
        slope = slope + self.weight_decay * state[LOGITS]
        logits, moments = adam_step(state[LOGITS], slope, state, lr=self.lr, active=known)
        return {LOGITS: logits, LOG_LOSSES: torch.full_like(before, float("inf")), **moments}

    def _bounds(self, losses: Tensor, names: tuple[str, ...] | None) -> Tensor | None:
        return vector_in_order(self.min_losses, names, losses, "`min_losses` of `FAMO`")

    def _log(self, losses: Tensor, names: tuple[str, ...] | None) -> Tensor:
        """The logarithms that are learned from; infinity where there is none."""
        logarithms = _above(losses, self._bounds(losses, names), self.eps).log()
        return torch.where(logarithms.isfinite(), logarithms, float("inf"))
