"""plot_weights: which objective the step served, over a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moopt.diagnostics.history import History
from moopt.diagnostics.plots import axes_of, places

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours stay apart for colour-blind readers, dashes and markers on a grey
# printer; from the seventh objective on a colour comes with another dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = "os^Dv<>"


def plot_weights(history: History, axes: Axes | None = None) -> Axes:
    """Each objective's share of the weights over the steps; a cross where it was inactive.

    The share is `w_i / sum_j |w_j|`: methods differ in the length of their direction, and a share
    compares. A weight between two steps without one is a marker.

    Args:
        history: of records with weights; those of `moopt.backward`, which counts no steps, stand
            side by side.
        axes: where to draw; None makes a figure.

    Returns:
        The axes; `axes.figure.savefig(...)` writes the picture.

    Raises:
        ImportError: matplotlib is not installed (the extra `plot`).
        ValueError: the history is empty, or holds no weight that is finite.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from moopt.diagnostics import History, plot_weights
        >>> history = History([{"step": 0.0, "weight/a": 1.0, "weight/b": 3.0}])
        >>> plot_weights(history).get_ylabel()
        'weight / sum of |weights|'
    """
    shares = _shares(history)
    xs, counted = places(history)
    steps = xs.numpy()
    axes = axes_of(axes, "plot_weights", height=2.6)
    inactive = history.table("inactive") == 1
    for i, name in enumerate(history.objectives):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]
        values, off = shares[:, i].numpy(), inactive[:, i].numpy()
        alone = _alone(~shares[:, i].isnan())
        axes.plot(
            steps,
            values,
            linestyle=dash,
            color=colour,
            linewidth=1.4,
            marker=MARKERS[i % len(MARKERS)] if alone else None,
            markevery=alone,
            label=f"{name} (no weights)" if shares[:, i].isnan().all() else name,
        )
        axes.plot(steps[off], values[off], "x", color=colour, markersize=6)
    if inactive.any():
        axes.plot([], [], "x", color="#444444", label="inactive")
    known = shares.nan_to_num(0.0)
    low, high = min(0.0, float(known.min())), float(known.max()) or 1.0
    margin = 0.03 * (high - low)
    axes.set(xlabel=counted, ylabel="weight / sum of |weights|", ylim=(low - margin, high + margin))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _alone(known: Tensor) -> list[int]:
    """Positions without a known neighbour: a line needs two points."""
    around = torch.nn.functional.pad(known, (1, 1))
    return (known & ~around[:-2] & ~around[2:]).nonzero().flatten().tolist()


def _shares(history: History) -> Tensor:
    """float64 `[T, m]`: each weight's share; NaN where there is none."""
    weights = history.table("weight")
    if not weights.isfinite().any():
        raise ValueError(
            "`history` of `plot_weights` must hold at least one finite weight; got"
            f" {_what_there_is(history)}"
        )
    total = weights.abs().nansum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def _what_there_is(history: History) -> str:
    """Why a history holds no weight, and what to do."""
    if not history.objectives:
        return "no record of a step. Call history(record) after each step."
    if not history.names_after("weight/"):
        return (
            f"none in {len(history)} records: an aggregator that decides entry by entry, such as"
            " GradDrop, has no weights. Use plot_cosines(history), or"
            f" history.series('slope/{history.objectives[0]}')."
        )
    return (
        f"none in {len(history)} records: losses or gradients were not finite. See"
        " history.series('status')."
    )
