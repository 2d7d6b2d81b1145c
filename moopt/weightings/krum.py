"""Krum: the gradients closest to their neighbours."""

import dataclasses
from typing import ClassVar

import numpy as np

from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting
from moopt.weightings.problem import EPS

SCORE_TIE = 64.0 * EPS
"""Scores this close, relative to the squared norms they are made of, differ by rounding only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Krum(Weighting):
    """Follow the gradient that is closest to its neighbours, or the mean of several (multi-Krum).

    A defence of distributed training against workers that send arbitrary gradients: of m
    gradients, f may be arbitrary, and for `m >= 2 f + 3` the choice is resilient. It is not a
    method for different objectives, whose gradients are meant to differ.

    The score of i is the sum of `||g_i - g_j||^2` over its `m - f - 2` (at least one) nearest
    others j. The smallest scores get equal weights, the others 0.

    Args:
        num_byzantine: f, >= 0; default 0.
        num_selected: how many gradients with the smallest scores are averaged, >= 1; default 1.
            All, where fewer are active.

    Raises:
        ValueError: if a setting is out of range; at the call, if `num_byzantine` > 0 and there
            are fewer than 2 f + 3 objectives.

    Numerics: scores that differ by rounding only are ties, which go to the first; so the order of
    the objectives matters there. A worker that sends NaN or infinity is not excluded, so that the
    overflow is seen.

    Example:
        >>> import torch, moopt
        >>> rows = torch.tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 0.1], [0.8, 0.0]])
        >>> statistics = moopt.StepStatistics(gramian=(rows @ rows.T).double())
        >>> moopt.weightings.Krum(num_selected=2)(statistics).weights.tolist()
        [0.5, 0.0, 0.5, 0.0]

    Source: P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer, "Machine Learning with
    Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
    https://proceedings.neurips.cc/paper/2017/hash/f4b9ec30ad9f68f89b29639786cb62ef-Abstract.html.
    A peer sums distances where the paper sums their squares, which can select another gradient; we
    follow the paper.
    """

    num_byzantine: int = 0
    num_selected: int = 1

    sees_zero_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field, smallest in (("num_byzantine", 0), ("num_selected", 1)):
            value = getattr(self, field)
            if not isinstance(value, int) or value < smallest:
                raise ValueError(
                    f"`{field}` of `Krum` must be an integer of at least {smallest}; got"
                    f" {value!r}. The default is {smallest}."
                )

    guarantees = frozenset(
        {Guarantee.SIMPLEX, Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.IDEMPOTENT}
    )

    def weigh(self, problem: Problem, state: State) -> Array:
        """Equal weights on the smallest scores, one after the other."""
        total, needed = problem.num_objectives, 2 * self.num_byzantine + 3
        if self.num_byzantine and total < needed:
            raise ValueError(
                f"`num_byzantine={self.num_byzantine}` of `Krum` needs at least {needed}"
                f" objectives; got {total}. Lower it to {max(total - 3, 0) // 2}, or pass more"
                " gradients."
            )
        m = problem.m
        norms = problem.norms / (problem.norms.max() or 1.0)
        squares = norms * norms
        sizes = squares[:, None] + squares
        products = problem.cosines * np.outer(norms, norms)  # symmetric to the last bit
        distances = np.maximum(sizes - 2.0 * products, 0.0)
        np.fill_diagonal(distances, np.inf)  # behind every other one
        num_neighbours = min(max(m - self.num_byzantine - 2, 1), m - 1)
        nearest = distances.argsort(axis=1, kind="stable")[:, :num_neighbours]
        scores = np.take_along_axis(distances, nearest, axis=1).sum(axis=1)
        rounding = SCORE_TIE * np.take_along_axis(sizes, nearest, axis=1).sum(axis=1)
        weights = np.zeros(m)
        num_selected = min(self.num_selected, m)
        for _ in range(num_selected):
            best = scores.argmin()
            chosen = (scores - scores[best] <= rounding + rounding[best]).argmax()
            weights[chosen] = 1.0 / num_selected
            scores[chosen] = np.inf
        return weights
