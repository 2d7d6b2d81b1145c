"""plot_cosines: which gradients agreed, and which conflicted, over a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moopt.diagnostics.conflict import active_cosines
from moopt.diagnostics.history import History
from moopt.diagnostics.plots import axes_of, places
from moopt.records.step_record import CONFLICT_TOL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The ends of RdBu are so dark that no hatching shows on them.
PALEST = 0.15
MAX_COLUMNS = 200
"""More steps than this are averaged in groups: a page has no more columns to show."""


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
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    cosines = active_cosines(history, "plot_cosines")
    values = torch.stack([cosines[:, i, j] for i, j in pairs])
    group = -(-values.shape[-1] // MAX_COLUMNS)
    parts = values.split(group, -1)
    means = torch.stack([part.nanmean(-1) for part in parts], -1)
    against = torch.stack([(part < -CONFLICT_TOL).sum(-1) for part in parts], -1)
    known = torch.stack([(~part.isnan()).sum(-1) for part in parts], -1)
    xs, counted = places(history)
    last = xs[-1:] + (xs[-1:] - xs[-2:-1] if len(xs) > 1 else 1)
    edges = torch.cat([xs[::group], last])

    axes = axes_of(axes, "plot_cosines", height=1.6 + 0.35 * len(pairs))
    from matplotlib import colormaps, colors, patches

    unknown: dict[str, Any] = {"facecolor": "#E4E4E4", "edgecolor": "#777777", "hatch": "...."}
    reds_and_blues = colormaps["RdBu"](torch.linspace(PALEST, 1 - PALEST, 256).numpy())
    axes.patch.set(**unknown, linewidth=0)
    rows = torch.arange(len(pairs) + 1) - 0.5
    mesh = axes.pcolormesh(
        edges.numpy(),
        rows.numpy(),
        means.numpy(),
        cmap=colors.ListedColormap(reds_and_blues),
        vmin=-1,
        vmax=1,
    )
    spans = edges.tolist()
    for row, conflict in enumerate((against > 0) & (2 * against >= known)):
        bars = [
            (start, stop - start)
            for start, stop, on in zip(spans[:-1], spans[1:], conflict.tolist(), strict=True)
            if on
        ]
        axes.broken_barh(bars, (row - 0.5, 1), facecolor="none", hatch="////", linewidth=0)
    labels = [f"{names[i]} – {names[j]}" for i, j in pairs]
    axes.set(xlabel=counted, yticks=range(len(pairs)), yticklabels=labels)
    axes.invert_yaxis()
    often = (
        "conflict (cosine below 0)" if group == 1 else f"conflict in half of {group} steps or more"
    )
    keys = [patches.Patch(facecolor="white", edgecolor="black", hatch="////", label=often, lw=0.5)]
    if not known.all():
        keys.append(patches.Patch(**unknown, label="absent, inactive or not finite", lw=0.5))
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9
    )
    axes.figure.colorbar(mesh, ax=axes, pad=0.02, label="cosine")
    return axes
