"""MoDo: minimum-norm weights followed by gradient steps, unbiased by independent batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moopt.check_number import check_number
from moopt.record import StepStatistics, sample_name
from moopt.solvers.simplex import simplex_projection
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.mean import mean_weights
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows

WEIGHTS = "weights"


def modo_weights(
    products: Tensor,
    former: Tensor,
    *,
    active: Tensor | None = None,
    step_size: float = 1e-3,
    regularization: float = 0.1,
) -> Tensor:
    """Return `P(w - gamma (K w + rho w))`, P the projection onto the simplex.

    With independent batches behind its two sides, `K = J1 J2'` is an unbiased estimate of the
    Gramian of the expected gradients, and `K w + rho w` one of the gradient of
    `||J'w||^2 / 2 + rho ||w||^2 / 2`. `J J'` of one batch is not: its noise has a positive mean.

    Args:
        products: `[..., m, m]`, entry (i, j) is the inner product of the gradient of objective i
            on the first batch with that of objective j on the second.
        former: `[..., m]`, the weights w of the last step.
        active: bool `[..., m]`; the others get weight exactly 0 and have no influence. None means
            all active.
        step_size: gamma > 0.
        regularization: rho >= 0.

    Returns:
        float64 `[..., m]` on the simplex; uniform where an active entry is not finite.

    Example:
        >>> import torch
        >>> from moopt.weightings.modo import modo_weights
        >>> K = torch.tensor([[4.0, 0.0], [0.0, 2.0]])
        >>> modo_weights(K, torch.tensor([0.5, 0.5]), step_size=0.1, regularization=0.0).tolist()
        [0.45, 0.55]
    """
    products, former = products.detach().double(), former.double()
    on = torch.ones(products.shape[:-1], dtype=torch.bool, device=products.device)
    if active is not None:
        on = on & active
    clean = torch.where(on[..., :, None] & on[..., None, :], products, 0.0)
    # The former weights of this step's objectives, should others have taken part before.
    w = simplex_projection(former.expand(on.shape), active=on)
    slope = (clean @ w[..., None])[..., 0] + regularization * w
    return simplex_projection(w - step_size * slope, active=on)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoDo(Weighting):
    """Multi-objective descent with double sampling: a running estimate of the min-norm weights.

    `w <- P(w - gamma (J1 J2' w + rho w))`, P the projection onto the simplex, then `d = J'w`: one
    projected gradient step per training step on `||J'w||^2 / 2 + rho ||w||^2 / 2`, the regularised
    problem of MGDA, for the *expected* gradients. J1, J2 and J belong to three independent
    batches, which makes the estimate unbiased: solved on one batch, minimum-norm weights depend on
    its noise, and so does the mean of their direction.

    Give the two further batches as `optimizer.backward(losses, samples=(losses_1, losses_2))`, or
    record `with optimizer.auxiliary(sample_name("forget", 1))` and so on one by one.

    Args:
        step_size: gamma > 0, of the weights, per squared unit of the gradients; default 1e-3.
        regularization: rho >= 0, of the weights towards the uniform ones; default 0.1.

    Raises:
        ValueError: a setting is out of range; at the call, if names or samples are missing.

    Numerics: three backward passes per objective. An objective that is inactive or absent in a
        step keeps its entry of the state. NaN or infinity among the active rows of any batch gives
        uniform weights and leaves the state. Common descent is not promised: the weights lag. The
        step has a unit: for gradients of norm s, a `step_size` of about `1e-3 / s^2`.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import MoDo
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
        >>> losses_on = lambda batch: {"a": batch * w[0] ** 2, "b": batch * w[1] ** 2}
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), MoDo(step_size=0.01))
        >>> record = optimizer.backward(losses_on(1.0), samples=(losses_on(0.5), losses_on(2.0)))
        >>> [round(weight, 3) for weight in record.weights.tolist()]
        [0.58, 0.42]

    Source: L. Chen, H. D. Fernando, Y. Ying and T. Chen, "Three-Way Trade-Off in Multi-Objective
    Learning: Optimization, Generalization and Conflict-Avoidance", NeurIPS 2023, Algorithm 1. The
    regularisation is of the authors' code; the paper has rho = 0. An objective that was absent
    or inactive joins with its last weight, and the weights of the step are projected again: ours.
    """

    step_size: float = 1e-3
    regularization: float = 0.1

    name: ClassVar[str] = "MoDo"
    source: ClassVar[str] = (
        "L. Chen, H. D. Fernando, Y. Ying and T. Chen, Three-Way Trade-Off in Multi-Objective"
        " Learning: Optimization, Generalization and Conflict-Avoidance, NeurIPS 2023"
    )

    def __post_init__(self) -> None:
        check_number(self.name, "step_size", self.step_size, "finite and > 0", use="1e-3")
        check_number(self.name, "regularization", self.regularization, "finite and >= 0", use="0.1")

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
        weights = modo_weights(
            products,
            state[WEIGHTS],
            active=on,
            step_size=self.step_size,
            regularization=self.regularization,
        )
        weights = torch.where(finite[..., None], weights, mean_weights(gramian, active=on))
        kept = state[WEIGHTS].expand(on.shape)
        following = torch.where(on & finite[..., None], weights, kept)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {WEIGHTS: following}, None)

    def _between_samples(self, statistics: StepStatistics) -> Tensor:
        """`J1 J2'`, float64 `[..., m, m]`."""
        if statistics.names is None:
            raise ValueError("`MoDo` needs the objectives' names. Pass the losses as a mapping.")
        sides = []
        for sample in (1, 2):
            wanted = [sample_name(name, sample) for name in statistics.names]
            missing = [name for name in wanted if name not in statistics.auxiliary]
            if missing:
                raise ValueError(
                    f"`MoDo` needs each loss on two further batches; the rows {missing} are"
                    " missing. Pass optimizer.backward(losses, samples=(losses_1, losses_2))."
                )
            first = statistics.num_objectives
            sides.append([first + statistics.auxiliary.index(name) for name in wanted])
        # One row at a time: a list of positions would be copied from the host.
        rows = torch.stack([statistics.gramian.select(-2, i) for i in sides[0]], -2)
        return torch.stack([rows.select(-1, i) for i in sides[1]], -1).double()
