"""plot_weights and plot_cosines: which objective the steps served, and which gradients agreed."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moopt.diagnostics.conflict import active_cosines
from moopt.diagnostics.history import History
from moopt.records.step_record import CONFLICT_TOL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours stay apart for colour-blind readers, dashes and markers on a grey
# printer; from the seventh objective on a colour comes with another dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = "os^Dv<>"
# The ends of RdBu are so dark that no hatching shows on them.
PALEST = 0.15
MAX_COLUMNS = 200
"""More steps than this are averaged in groups: a page has no more columns to show."""


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
    xs, counted = _places(history)
    steps = xs.numpy()
    axes = _axes_of(axes, "plot_weights", height=2.6)
    inactive = history.table("inactive") == 1
    for i, name in enumerate(history.objectives):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]
        values, off = shares[:, i].numpy(), inactive[:, i].numpy()
        alone = _alone(~shares[:, i].isnan())
        label = f"{name} (no weights)" if shares[:, i].isnan().all() else name
        (line,) = axes.plot(steps, values, linestyle=dash, color=colour, linewidth=1.4, label=label)
        line.set(marker=MARKERS[i % len(MARKERS)] if alone else "None", markevery=alone)
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
    found = f"none in {len(history)} records"
    if not history.names_after("weight/"):
        return (
            f"{found}: an aggregator that decides entry by entry, such as GradDrop, has no weights."
            f" Use plot_cosines(history), or history.series('slope/{history.objectives[0]}')."
        )
    return f"{found}: losses or gradients were not finite. See history.series('status')."


def plot_cosines(history: History, axes: Axes | None = None) -> Axes:
    """A heat map of the cosines: a row for each pair, a column for each step.

    Blue where gradients agree, red where they conflict. The conflicts of `StepRecord.conflicts` are
    hatched, however small, so that the picture reads in black and white and agrees with
    `conflict_matrix`; dotted grey where an objective was absent, inactive or not finite. Of
    more than 200 steps, a column shows the mean of several, hatched where at least half of them
    conflict.

    Args:
        history: of records with at least two objectives.
        axes: where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed (the extra `plot`).
        ValueError: the history holds no cosine of two active objectives.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from moopt.diagnostics import History, plot_cosines
        >>> row = {"step": 0.0, "weight/a": 1.0, "weight/b": 1.0, "norm/a": 1.0, "norm/b": 1.0}
        >>> plot_cosines(History([row | {"cosine/a,b": -0.5}])).get_yticklabels()[0].get_text()
        'a – b'
    """
    names = history.objectives
    pairs = [f"{first} – {second}" for first, second in itertools.combinations(names, 2)]
    first, second = torch.triu_indices(len(names), len(names), 1)
    values = active_cosines(history, "plot_cosines")[:, first, second].T
    group = -(-len(history) // MAX_COLUMNS)
    parts = values.split(group, -1)
    means = torch.stack([part.nanmean(-1) for part in parts], -1)
    against = torch.stack([(part < -CONFLICT_TOL).sum(-1) for part in parts], -1)
    known = torch.stack([(~part.isnan()).sum(-1) for part in parts], -1)
    xs, counted = _places(history)
    last = xs[-1:] + (xs[-1:] - xs[-2:-1] if len(xs) > 1 else 1)
    edges = torch.cat([xs[::group], last])

    axes = _axes_of(axes, "plot_cosines", height=1.6 + 0.35 * len(pairs))
    from matplotlib import colormaps, colors, patches

    unknown: dict[str, Any] = {"facecolor": "#E4E4E4", "edgecolor": "#777777", "hatch": "...."}
    shades = colormaps["RdBu"](torch.linspace(PALEST, 1 - PALEST, 256).numpy())
    cmap = colors.ListedColormap(shades)
    axes.patch.set(**unknown, linewidth=0)
    rows = torch.arange(len(pairs) + 1) - 0.5
    mesh = axes.pcolormesh(edges.numpy(), rows.numpy(), means.numpy(), cmap=cmap, vmin=-1, vmax=1)
    for row, conflict in enumerate((against > 0) & (2 * against >= known)):
        starts, widths = edges[:-1][conflict].tolist(), edges.diff()[conflict].tolist()
        bars = list(zip(starts, widths, strict=True))
        axes.broken_barh(bars, (row - 0.5, 1), facecolor="none", hatch="////", linewidth=0)
    axes.set(xlabel=counted, yticks=range(len(pairs)), yticklabels=pairs)
    axes.invert_yaxis()
    several = f"conflict in half of {group} steps or more"
    often = "conflict (cosine below 0)" if group == 1 else several
    keys = [patches.Patch(facecolor="white", edgecolor="black", hatch="////", label=often, lw=0.5)]
    if not known.all():
        keys.append(patches.Patch(**unknown, label="absent, inactive or not finite", lw=0.5))
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9
    )
    axes.figure.colorbar(mesh, ax=axes, pad=0.02, label="cosine")
    return axes


def _places(history: History) -> tuple[Tensor, str]:
    """Where each record stands, in increasing order, and what is counted there."""
    steps = torch.tensor([row.get("step", math.nan) for row in history.rows], dtype=torch.float64)
    if (steps.diff() > 0).all() and not steps.isnan().any():
        return steps, "step"
    return torch.arange(len(history)).double(), "record"


def _axes_of(axes: Axes | None, caller: str, *, height: float) -> Axes:
    """The axes that were given, or those of a new figure."""
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"`{caller}` needs matplotlib: pip install matplotlib") from error
    return pyplot.subplots(figsize=(7.2, height), layout="constrained")[1]
