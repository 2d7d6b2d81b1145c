"""krum_on_host: Krum of one Gramian in numpy, for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def krum_on_host(
    gramian: Tensor, active: Tensor | None, num_byzantine: int, num_selected: int, tie: float
) -> NDArray[np.float64] | None:
    """The weights of `krum_weights`, which documents the arguments.

    Args:
        tie: difference of two scores that is rounding, relative to their squared norms.

    Returns:
        float64 `[m]`; None where no row is active or an active entry is not finite.
    """
    import numpy as np

    array = gramian.numpy()
    weights = np.zeros(len(array))
    seats = np.arange(len(array)) if active is None else active.numpy().nonzero()[0]
    if active is not None:
        array = array[np.ix_(seats, seats)]
    size = len(seats)
    if not size or not np.isfinite(array).all():
        return None
    squares = array.diagonal()
    sizes = squares[:, None] + squares
    distances = np.maximum(sizes - array - array.T, 0.0)
    distances.flat[:: size + 1] = np.inf  # behind every other one
    nearest = distances.argsort(-1, kind="stable")[:, : size - 1]
    nearest = nearest[:, : max(size - num_byzantine - 2, 1)]
    scores = np.take_along_axis(distances, nearest, -1).sum(-1)
    noise = tie * np.take_along_axis(sizes, nearest, -1).sum(-1)
    num_selected = min(num_selected, size)
    for _ in range(num_selected):
        best = scores.argmin()
        chosen = (scores - scores[best] <= noise + noise[best]).argmax()
        weights[seats[chosen]] = 1.0 / num_selected
        scores[chosen] = np.inf
    return weights
