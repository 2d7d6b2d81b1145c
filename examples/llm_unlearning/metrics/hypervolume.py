"""Hypervolume of a two-dimensional front: one number for a whole trade-off curve."""

from __future__ import annotations

import numpy as np


def pareto_front(points: np.ndarray) -> np.ndarray:
    """The points that no other point beats in both coordinates, both to be maximised.

    Args:
        points: `[N, 2]`, finite.

    Returns:
        float64 `[K, 2]`, the first coordinate falling and the second rising strictly.

    Raises:
        ValueError: a wrong shape or a value that is not finite.

    Example:
        >>> pareto_front(np.array([[0.2, 0.9], [0.8, 0.5], [0.1, 0.4]])).tolist()
        [[0.8, 0.5], [0.2, 0.9]]
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"`points` must be finite with shape [N, 2]; got shape {list(points.shape)}. Stack"
            " (forgetting, utility) pairs as rows."
        )
    points = points[np.lexsort((-points[:, 1], -points[:, 0]))]
    best = np.maximum.accumulate(np.append(-np.inf, points[:, 1]))[:-1]
    return points[points[:, 1] > best]


def hypervolume(points: np.ndarray, reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """Area dominated by the points and above the reference, both coordinates maximised.

    Args:
        points: `[N, 2]`, such as (1 - forget accuracy, retain utility) of every checkpoint.
        reference: the worst corner, default (0, 0).

    Returns:
        The area, >= 0; in [0, 1] for points in the unit square. 0 without points above the
        reference.

    Example:
        >>> hypervolume(np.array([[1.0, 0.5], [0.5, 1.0]]))
        0.75

    Source: E. Zitzler, L. Thiele, "Multiobjective Evolutionary Algorithms", IEEE TEC 1999.
    """
    front = pareto_front(np.maximum(np.asarray(points, dtype=np.float64), reference))
    widths = front[:, 0] - reference[0]
    heights = np.diff(front[:, 1], prepend=reference[1])
    return float((widths * heights).sum())
