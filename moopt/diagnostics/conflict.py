"""conflict_matrix: which objectives stood in each other's way, and how often."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from moopt.diagnostics.history import History
from moopt.records.step_record import CONFLICT_TOL

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
        most = int(self.steps.max()) if self.names else 0
        lines = [f"share of common steps (up to {most}) in conflict (negative cosine), mean cosine"]
        lines += [" " * width + "".join(f" {name:>{max(WIDTH, len(name))}}" for name in self.names)]
        for name, row, cosines in zip(
            self.names, self.share.tolist(), self.mean_cosine.tolist(), strict=True
        ):
            cells = [
                "-" if other == name else "no step" if s != s else f"{100 * s:.0f} % {c:+.2f}"
                for other, s, c in zip(self.names, row, cosines, strict=True)
            ]
            padded = (f" {c:>{max(WIDTH, len(n))}}" for n, c in zip(self.names, cells, strict=True))
            lines.append(f"{name:<{width}}" + "".join(padded))
        return "\n".join(lines)


def conflict_matrix(history: History) -> ConflictMatrix:
    """The share of steps in which each pair of gradients had a negative cosine.

    Steps in which an objective was absent, inactive (its gradient was rounding), or not finite
    do not count. Printed: the share, then the mean cosine, or "no step" in which both were active.

    Args:
        history: of records with Gramians (not of a scalarization).

    Raises:
        ValueError: the history holds no cosine of two active objectives.

    Example:
        >>> import torch, moopt
        >>> from moopt.diagnostics import History, conflict_matrix
        >>> w, history = torch.nn.Parameter(torch.ones(2)), History()
        >>> history(moopt.backward({"a": w[0] + w[1], "b": w[0] - 2 * w[1]}, [w]))
        >>> print(conflict_matrix(history))
        share of common steps (up to 1) in conflict (negative cosine), mean cosine
                    a           b
        a           - 100 % -0.32
        b 100 % -0.32           -
    """
    cosines = active_cosines(history, "conflict_matrix")
    steps = (~cosines.isnan()).sum(0).double()
    share = (cosines < -CONFLICT_TOL).sum(0) / steps
    return ConflictMatrix(history.objectives, cosines.nanmean(0), share, steps)


def active_cosines(history: History, caller: str) -> Tensor:
    """float64 `[T, m, m]`: the finite cosines between active objectives; NaN elsewhere.

    Args:
        history: of a run.
        caller: whose argument it is, for the message.

    Raises:
        ValueError: there is none between two objectives, which would read as "no conflict".
    """
    cosines = history.cosines()
    inactive = history.table("inactive") == 1
    off = inactive[:, :, None] | inactive[:, None, :]
    cosines = cosines.masked_fill(off | ~cosines.isfinite(), math.nan)
    if cosines.masked_select(~torch.eye(cosines.shape[-1], dtype=torch.bool)).isnan().all():
        raise ValueError(
            f"`history` of `{caller}` must hold cosines of at least two active objectives; got"
            f" {_what_there_is(history)}"
        )
    return cosines


def _what_there_is(history: History) -> str:
    """Why a history holds no cosine, and what to do."""
    if not len(history):
        return "no record. Call history(record) after each step."
    if len(history.objectives) < 2:
        return f"{len(history.objectives)} objective. Record steps with several losses."
    if not history.names_after("cosine/"):
        return (
            "none: a scalarization's single backward pass measures no gradients. Record steps of a"
            " weighting, such as Sum() for plain training."
        )
    return (
        f"none in {len(history)} records: one of each pair was absent, inactive (its gradient was"
        " rounding) or not finite. See history.table('inactive') and history.series('status')."
    )
