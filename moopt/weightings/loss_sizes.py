"""loss_sizes: the losses as positive numbers that can divide."""

from __future__ import annotations

import torch
from torch import Tensor

from moopt.weightings.problem import LOSS_FLOOR
from moopt.weightings.unit_rows import UnitRows


def loss_sizes(losses: Tensor | None, rows: UnitRows, owner: str) -> tuple[Tensor, Tensor]:
    """Return |loss| per objective, and whether every active loss and gradient is finite.

    Args:
        losses: `[m]` or `[..., m]`.
        rows: of the Gramian.
        owner: the weighting that needs them, for the message.

    Returns:
        float64 `[..., m]`, at least `LOSS_FLOOR` of the largest active one, and 1 where an
        objective is not active or every loss is zero; bool `[...]`.

    Raises:
        ValueError: if there are no losses.

    Example:
        >>> import torch
        >>> from moopt.weightings.loss_sizes import loss_sizes
        >>> from moopt.weightings.unit_rows import unit_rows
        >>> rows = unit_rows(torch.eye(3, dtype=torch.float64))
        >>> loss_sizes(torch.tensor([-2.0, 1.0, 0.0]), rows, "Mine")[0].tolist()
        [2.0, 1.0, 2e-12]
    """
    if losses is None:
        raise ValueError(
            f"`{owner}` needs the losses; got none. Pass them in `StepStatistics.losses`, or use"
            " a weighting of the gradients alone, such as MGDA."
        )
    sizes = losses.detach().to(device=rows.norms.device, dtype=torch.float64).abs()
    sizes = torch.where(rows.on, sizes, 0.0)
    finite = rows.finite & torch.isfinite(sizes).all(-1)
    sizes = torch.where(finite[..., None], sizes, 0.0)
    sizes = torch.maximum(sizes, LOSS_FLOOR * sizes.amax(-1, keepdim=True))
    return torch.where(rows.on & (sizes > 0), sizes, 1.0), finite
