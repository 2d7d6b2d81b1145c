"""objective_progress: what became of every loss."""

import math
from typing import NamedTuple

from moopt.diagnostics.history import History


class ObjectiveProgress(NamedTuple):
    """One objective's loss over a run.

    Attributes:
        first, last: the mean loss over the first and the last records that have it.
        best: the smallest loss.
        fell: share of consecutive records between which the loss fell, in [0, 1].
        steps: records that have it.

    Example:
        >>> from moopt.diagnostics import ObjectiveProgress
        >>> ObjectiveProgress(first=2.0, last=1.0, best=0.9, fell=0.7, steps=10).change
        -0.5
    """

    first: float
    last: float
    best: float
    fell: float
    steps: int

    @property
    def change(self) -> float:
        """`(last - first) / |first|`: negative where the objective improved."""
        return (self.last - self.first) / abs(self.first) if self.first else math.nan


def objective_progress(history: History, *, window: int = 10) -> dict[str, ObjectiveProgress]:
    """Whether each objective's loss fell over the run, beyond the noise of single batches.

    Args:
        history: of records whose losses were given.
        window: how many records at either end are averaged, >= 1; default 10, and at most half
            of those that there are.

    Returns:
        Name -> `ObjectiveProgress`, for objectives with at least two finite losses.

    Raises:
        ValueError: `window` is not a positive integer, or no objective has two finite losses.

    Example:
        >>> from moopt.diagnostics import History, objective_progress
        >>> history = History([{"weight/a": 1.0, "loss/a": 4.0 - step} for step in range(4)])
        >>> progress = objective_progress(history, window=1)["a"]
        >>> progress.first, progress.last, progress.change, progress.fell
        (4.0, 1.0, -0.75, 1.0)
    """
    if not isinstance(window, int) or window < 1:
        raise ValueError(
            f"`window` of `objective_progress` must be an int >= 1; got {window!r}. Use 10."
        )
    out = {}
    for name, values in zip(history.objectives, history.table("loss").unbind(-1), strict=True):
        losses = values[values.isfinite()]
        count = len(losses)
        if count < 2:
            continue
        ends = min(window, count // 2)
        out[name] = ObjectiveProgress(
            first=float(losses[:ends].mean()),
            last=float(losses[-ends:].mean()),
            best=float(losses.min()),
            fell=float((losses.diff() < 0).double().mean()),
            steps=count,
        )
    if not out:
        raise ValueError(
            "`history` of `objective_progress` must hold at least two finite losses of an"
            f" objective; got none in {len(history)} records. Record more steps, and hand the"
            " losses over: optimizer.objective(name, loss)."
        )
    return out
