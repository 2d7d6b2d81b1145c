"""What the pictures of a run share: axes, and where each record stands."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.diagnostics.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def places(history: History) -> tuple[Tensor, str]:
    """Where each record stands, in increasing order, and what is counted there."""
    steps = torch.tensor([row.get("step", math.nan) for row in history.rows])
    if bool((steps.diff() > 0).all()) and not steps.isnan().any():
        return steps, "step"
    return torch.arange(len(history), dtype=torch.float64), "record"


def axes_of(axes: Axes | None, caller: str, *, height: float) -> Axes:
    """The axes that were given, or those of a new figure."""
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"`{caller}` needs matplotlib: pip install matplotlib") from error
    return pyplot.subplots(figsize=(7.2, height), layout="constrained")[1]
