"""DoubleSampling: weights that follow expected gradients, unbiased by independent batches."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.names import sample_name
from moopt.settings.numbers import check_number
from moopt.solvers.simplex import simplex_projection
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows

WEIGHTS = "weights"


def projected_step(
    products: Tensor,
    former: Tensor,
    slope: Callable[[Tensor, Tensor], Tensor],
    *,
    active: Tensor | None,
    step_size: float,
) -> Tensor:
    """Return `P(w - step_size slope(K, w))`, P the projection onto the simplex; float64 `[..., m]`.

    Args:
        products: K, `[..., m, m]`; what is not active is replaced by 0.
        former: w, `[..., m]`, projected first: others may have taken part before.
        slope: of float64 K and w.
        active: bool `[..., m]`; the others get weight exactly 0. None means all active.
        step_size: > 0.
    """
    products, former = products.detach().double(), former.double()
    on = torch.ones(products.shape[:-1], dtype=torch.bool, device=products.device)
    if active is not None:
        on = on & active
    clean = torch.where(on[..., :, None] & on[..., None, :], products, 0.0)
    w = simplex_projection(former.expand(on.shape), active=on)
    return simplex_projection(w - step_size * slope(clean, w), active=on)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoubleSampling(Weighting):
    """The base of methods that move their weights by `J1 J2'` of two further batches.

    With independent batches behind its two sides, `J1 J2'` is an unbiased estimate of the Gramian
    of the expected gradients; `J J'` of one batch is not: its noise has a positive mean.
    """

    step_size: float = 1e-3

    def __post_init__(self) -> None:
        check_number(self.name, "step_size", self.step_size, "finite and > 0", use="1e-3")

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # Not permutation-equivariant: a step of 1e30 ends in a vertex, and rounding chooses among
        # equals.
        return frozenset({Guarantee.SIMPLEX, Guarantee.IDEMPOTENT})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"names", "auxiliary"})

    @property
    def state_axes(self) -> Mapping[str, int]:
        return {WEIGHTS: 1}

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """Uniform weights."""
        shape = (num_objectives,)
        return {WEIGHTS: torch.full(shape, 1 / num_objectives, dtype=torch.float64, device=device)}

    @abc.abstractmethod
    def _step(
        self, products: Tensor, former: Tensor, active: Tensor, statistics: StepStatistics
    ) -> tuple[Tensor, Tensor]:
        """(the weights to keep, those of the direction), float64 `[..., m]` on the simplex."""

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        if state is None:
            state = self.initial_state(statistics.num_objectives, gramian.device)
        products = self._between_samples(statistics)
        on = torch.ones(gramian.shape[:-1], dtype=torch.bool, device=gramian.device)
        if active is not None:
            on = on & active
        pairs = on[..., :, None] & on[..., None, :]
        finite = (torch.isfinite(products) & torch.isfinite(gramian) | ~pairs).all(-1).all(-1)
        moved, weights = self._step(products, state[WEIGHTS], on, statistics)
        weights = torch.where(finite[..., None], weights, mean_weights(gramian, active=on))
        kept = state[WEIGHTS].expand(on.shape)
        following = torch.where(on & finite[..., None], moved, kept)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {WEIGHTS: following}, None)

    def _between_samples(self, statistics: StepStatistics) -> Tensor:
        """`J1 J2'`, float64 `[..., m, m]`."""
        if statistics.names is None:
            raise ValueError(
                f"`{self.name}` needs the objectives' names. Pass the losses as a mapping."
            )
        sides = []
        for sample in (1, 2):
            wanted = [sample_name(name, sample) for name in statistics.names]
            missing = [name for name in wanted if name not in statistics.auxiliary]
            if missing:
                raise ValueError(
                    f"`{self.name}` needs each loss on two further batches; the rows {missing} are"
                    " missing. Pass optimizer.backward(losses, samples=(losses_1, losses_2))."
                )
            first = statistics.num_objectives
            sides.append([first + statistics.auxiliary.index(name) for name in wanted])
        # One row at a time: a list of positions would be copied from the host.
        rows = torch.stack([statistics.gramian.select(-2, i) for i in sides[0]], -2)
        return torch.stack([rows.select(-1, i) for i in sides[1]], -1).double()
