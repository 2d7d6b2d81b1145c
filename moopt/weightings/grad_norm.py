"""GradNorm: weights learned so that slow objectives get longer gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import check_number
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.loss_sizes import loss_sizes
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows
from moopt.weightings.unit_rows import unit_rows

WEIGHTS = "weights"
INITIAL_LOSSES = "initial_losses"
NUM_STEPS = "num_steps"

REACHED = 64 * torch.finfo(torch.float64).eps
"""Distance from the target, relative to the mean length, that is rounding: no step is taken."""


def grad_norm_weights(
    weights: Tensor,
    norms: Tensor,
    ratios: Tensor,
    *,
    alpha: float = 1.5,
    lr: float = 0.025,
    active: Tensor | None = None,
) -> Tensor:
    """Return the weights after one step of gradient descent on the distance from the targets.

    With the lengths `L_i = w_i ||g_i||`, their mean L and the targets `T_i = L (ratio_i /
    mean(ratio))^alpha`, taken as constants, the distance is `sum_i |L_i - T_i| / L`; the step is
    taken in `log w_i`, `w_i <- w_i exp(-lr sign(L_i - T_i) L_i / L)`, and the weights are then
    divided by their mean. All sums and means are over the active objectives.

    Args:
        weights: float64 `[..., m]`, positive.
        norms: float64 `[..., m]`, `||g_i||`.
        ratios: float64 `[..., m]`, positive, each loss over its initial value.
        alpha: strength of the restoring force, >= 0.
        lr: of the weights, dimensionless, >= 0.
        active: bool `[..., m]`; the others keep their weights. None means all active.

    Returns:
        float64 `[..., m]`, positive, of mean 1 over the active objectives.

    Example:
        >>> import torch
        >>> from moopt.weightings.grad_norm import grad_norm_weights
        >>> ones, norms = torch.ones(2).double(), torch.tensor([3.0, 1.0]).double()
        >>> weights = grad_norm_weights(ones, norms, ones, lr=0.1)
        >>> [round(w, 4) for w in weights.tolist()]
        [0.9003, 1.0997]
    """
    on = torch.ones_like(weights, dtype=torch.bool) if active is None else active
    share = mean_weights(weights[..., None], active=on)
    lengths = torch.where(on, weights * norms, 0.0)
    mean = (share * lengths).sum(-1, keepdim=True)
    relative = lengths / torch.where(mean > 0, mean, 1.0)
    ratios = torch.where(on, ratios, 0.0)
    middle = (share * ratios).sum(-1, keepdim=True)
    targets = (ratios / torch.where(middle > 0, middle, 1.0)).pow(alpha)
    distance = relative - targets
    step = torch.where(distance.abs() > REACHED, distance.sign() * relative, 0.0)
    moved = weights * torch.exp(-lr * step)
    total = (share * moved).sum(-1, keepdim=True)
    moved = moved / torch.where(total > 0, total, 1.0)
    return torch.where(on, moved, weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradNorm(Weighting):
    """Learn the weights so that every objective trains at a similar rate.

    The length `w_i ||g_i||` of each weighted gradient is drawn to a target: the mean length times
    `r_i^alpha`, where `r_i` is the loss relative to its first value, over the mean of these
    ratios. An objective that has fallen less than the others gets a longer gradient. The weights
    start at one, and always have mean one over the active objectives; each step uses the present
    weights and then moves them.

    Args:
        alpha: strength of the restoring force, >= 0; default 1.5. 0 makes all lengths equal.
        lr: learning rate of the weights, >= 0, dimensionless; default 0.025. A weight moves by at
            most `exp(lr m)` in a step.

    Raises:
        ValueError: if a setting is out of range; at the call, if the losses are missing.

    Numerics: independent of the scale of the gradients and of each loss. Losses are taken by
    absolute value and should be positive: one that changes sign has no rate; one below 1e-12 of
    the largest counts as that much. Zero gradients keep their weight up to the common factor. An
    absent objective keeps its weight, a new one starts at one. NaN or infinity gives uniform
    weights and leaves the state alone. No synchronisation on a device.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[9.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> statistics = moopt.StepStatistics(gramian=G, losses=torch.tensor([1.0, 1.0]))
        >>> weighting = moopt.weightings.GradNorm(lr=0.1)
        >>> weights, state, _ = weighting(statistics)
        >>> weights.tolist(), [round(w, 4) for w in weighting(statistics, state).weights.tolist()]
        ([1.0, 1.0], [0.9003, 1.0997])

    Source: Z. Chen, V. Badrinarayanan, C.-Y. Lee and A. Rabinovich, "GradNorm: Gradient
    Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, Algorithm 1.
    We differ in the step of the weights: plain gradient descent in `log w_i` on the distance over
    the mean length, so that they stay positive and `lr` is dimensionless, where the paper lets an
    optimizer act on w_i (from memory); and in measuring over all shared parameters, where the
    paper takes the last shared layer (pass `shared=` to `moopt.CommonDescent` for that).
    """

    alpha: float = 1.5
    lr: float = 0.025

    name: ClassVar[str] = "GradNorm"
    source: ClassVar[str] = (
        "Z. Chen, V. Badrinarayanan, C.-Y. Lee and A. Rabinovich, GradNorm: Gradient Normalization"
        " for Adaptive Loss Balancing in Deep Multitask Networks, ICML 2018"
    )

    def __post_init__(self) -> None:
        for field in ("alpha", "lr"):
            value, default = getattr(self, field), getattr(type(self), field)
            check_number(self.name, field, value, "finite and >= 0", use=f"{default:g}")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"losses"})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {WEIGHTS: 1, INITIAL_LOSSES: 1, NUM_STEPS: 1}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Weights of one, and no initial losses yet."""
        ones = torch.ones(num_objectives, dtype=torch.float64, device=device)
        steps = torch.zeros(num_objectives, dtype=torch.int64, device=device)
        return {WEIGHTS: ones, INITIAL_LOSSES: torch.zeros_like(ones), NUM_STEPS: steps}

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        if state is None:
            state = self.initial_state(statistics.num_objectives, gramian.device)
        rows = unit_rows(gramian.detach(), active)
        sizes, finite = loss_sizes(statistics.losses, rows, "GradNorm")
        usable = rows.on & finite[..., None]
        uniform = mean_weights(gramian, active=rows.on)
        former = state[WEIGHTS].expand(usable.shape)
        mean = (uniform * former).sum(-1, keepdim=True)
        now = torch.where(rows.on, former / torch.where(mean > 0, mean, 1.0), 0.0)
        begun = state[NUM_STEPS].expand(usable.shape) > 0
        initial = torch.where(begun | ~usable, state[INITIAL_LOSSES], sizes)
        norms = torch.where(rows.live, rows.norms, 0.0)
        ratios = sizes / torch.where(initial > 0, initial, 1.0)
        moved = grad_norm_weights(now, norms, ratios, alpha=self.alpha, lr=self.lr, active=usable)
        following = {
            WEIGHTS: torch.where(usable, moved, former),
            INITIAL_LOSSES: initial,
            NUM_STEPS: state[NUM_STEPS] + usable,
        }
        weights = torch.where(finite[..., None], now, uniform)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), following, None)
