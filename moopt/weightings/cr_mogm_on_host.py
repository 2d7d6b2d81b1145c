"""cr_mogm_on_host: one regular step of CRMOGM in numpy, for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cr_mogm_on_host(
    weights: Tensor, average: Tensor, num_steps: Tensor, momentum: float, simplex: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The averaged weights, the averages and their numbers of steps; all objectives active.

    Args:
        weights, average, num_steps, momentum: as in `cr_mogm_weights`, `[m]`.
        simplex: whether the averages are divided by their sum.
    """
    import numpy as np

    new, steps = weights.detach().numpy(), num_steps.numpy()
    mixed = np.where(steps > 0, momentum * average.numpy() + (1.0 - momentum) * new, new)
    total = float(np.add.reduce(mixed)) if simplex else 1.0
    # A copy also where nothing changes: the state must not share memory with the weights.
    return mixed / (total if total > 0.0 else 1.0), mixed, steps + 1
