"""conflict_matrix: which objectives stood in each other's way, and how often."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moopt.diagnostics.history import History
from moopt.record import CONFLICT_TOL

WIDTH = len("100 % -0.32")


class ConflictMatrix(NamedTuple):
    """Pairwise conflict over a run; every tensor is float64 `[m, m]` and symmetric.

    Attributes:
        names: the objectives.
        mean_cosine: over the steps in which both were active; NaN where there was none.
        share: of those steps, how many had a negative cosine, in [0, 1].
        steps: how many steps that were.

    Example:
        >>> from moopt.diagnostics import ConflictMatrix
        >>> ConflictMatrix._fields
        ('names', 'mean_cosine', 'share', 'steps')
    """

    names: tuple[str, ...]
    mean_cosine: Tensor
    share: Tensor
    steps: Tensor

    def __str__(self) -> str:
        width = max(map(len, self.names), default=0)
        lines = [" " * width + "".join(f" {name:>{max(WIDTH, len(name))}}" for name in self.names)]
        for name, row, cosines in zip(
            self.names, self.share.tolist(), self.mean_cosine.tolist(), strict=True
        ):
            cells = [
                f"{100 * s:.0f} % {c:+.2f}" if other != name else "-"
                for other, s, c in zip(self.names, row, cosines, strict=True)
            ]
            padded = (f" {c:>{max(WIDTH, len(n))}}" for n, c in zip(self.names, cells, strict=True))
            lines.append(f"{name:<{width}}" + "".join(padded))
        return "\n".join(lines)


def conflict_matrix(history: History) -> ConflictMatrix:
    """The share of steps in which each pair of gradients had a negative cosine.

    Steps in which an objective was absent, inactive (its gradient was rounding), or not finite
    do not count. Printed: the share, then the mean cosine.

    Args:
        history: of records with Gramians (a weighting, not a scalarization).

    Raises:
        ValueError: the history holds no cosine.

    Example:
        >>> import torch, moopt
        >>> from moopt.diagnostics import History, conflict_matrix
        >>> w, history = torch.nn.Parameter(torch.ones(2)), History()
        >>> history(moopt.backward({"a": w[0] + w[1], "b": w[0] - 2 * w[1]}, [w]))
        >>> print(conflict_matrix(history))
                    a           b
        a           - 100 % -0.32
        b 100 % -0.32           -
    """
    cosines = history.cosines()
    inactive = history.table("inactive") == 1
    on = ~(inactive[:, :, None] | inactive[:, None, :]) & torch.isfinite(cosines)
    off_diagonal = ~torch.eye(cosines.shape[-1], dtype=torch.bool)
    if not (on & off_diagonal).any():
        raise ValueError(
            "`history` of `conflict_matrix` must hold cosines of at least two active objectives;"
            " got none. Record steps of a weighting, such as Sum() for plain training."
        )
    steps = on.sum(0).double()
    mean = torch.where(on, cosines, 0.0).sum(0) / steps
    share = ((cosines < -CONFLICT_TOL) & on).sum(0) / steps
    return ConflictMatrix(history.objectives, mean, share, steps)
