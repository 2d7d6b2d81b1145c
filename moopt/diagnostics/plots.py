"""Pictures of a run: the objectives' weights, and the cosines between their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moopt.diagnostics.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours stay apart for colour-blind readers, the dashes on a grey printer; from
# the seventh objective on a colour comes with another dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
HATCHED_BELOW = -0.1
"""Clear conflicts; the sign of a smaller cosine is often the mini-batch's."""

MAX_COLUMNS = 200
"""More steps than this are averaged in groups: a page has no more columns to show."""


def plot_weights(history: History, axes: Axes | None = None) -> Axes:
    """Each objective's share of the weights over the steps; a cross where it was inactive.

    The share is `w_i / sum_j |w_j|`: methods differ in the length of their direction, and a share
    compares.

    Args:
        history: of at least one record.
        axes: where to draw; None makes a figure.

    Returns:
        The axes; `axes.figure.savefig(...)` writes the picture.

    Raises:
        ImportError: matplotlib is not installed (the extra `plot`).
        ValueError: the history is empty.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from moopt.diagnostics import History, plot_weights
        >>> history = History([{"step": 0.0, "weight/a": 1.0, "weight/b": 3.0}])
        >>> plot_weights(history).get_ylabel()
        'weight / sum of |weights|'
    """
    axes = _axes(history, axes, "plot_weights", height=2.6)
    steps = history.series("step").numpy()
    weights = history.table("weight")
    total = weights.abs().nansum(-1, keepdim=True)
    shares = weights / torch.where(total > 0, total, 1.0)
    inactive = history.table("inactive") == 1
    for i, name in enumerate(history.objectives):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[(i + i // len(COLOURS)) % len(DASHES)]
        values = shares[:, i].numpy()
        axes.plot(steps, values, linestyle=dash, color=colour, linewidth=1.4, label=name)
        off = inactive[:, i].numpy()
        axes.plot(steps[off], values[off], "x", color=colour, markersize=6)
    if inactive.any():
        axes.plot([], [], "x", color="#444444", label="inactive")
    known = shares.nan_to_num(0.0)
    low, high = min(0.0, float(known.min())), float(known.max())
    margin = 0.03 * (high - low + 1e-9)
    axes.set(xlabel="step", ylabel="weight / sum of |weights|", ylim=(low - margin, high + margin))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    axes.grid(color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def plot_cosines(history: History, axes: Axes | None = None) -> Axes:
    """A heat map of the cosines: a row for each pair, a column for each step.

    Blue where gradients agree, red where they conflict; clear conflicts are hatched too, so that
    the picture reads in black and white. Grey where an objective was absent or inactive.

    Args:
        history: of records with at least two objectives.
        axes: where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed (the extra `plot`).
        ValueError: the history holds no pair of objectives, or no cosine.

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
    if not pairs:
        raise ValueError(
            "`history` of `plot_cosines` must hold at least two objectives; got"
            f" {len(names)}. Record steps with several losses."
        )
    if history.cosines().masked_select(~torch.eye(len(names), dtype=torch.bool)).isnan().all():
        raise ValueError(
            "`history` of `plot_cosines` must hold cosines; got none. Record steps of a weighting:"
            " a scalarization's single pass measures no gradients."
        )
    axes = _axes(history, axes, "plot_cosines", height=1.4 + 0.35 * len(pairs))
    inactive = history.table("inactive") == 1
    off = inactive[:, :, None] | inactive[:, None, :]
    cosines = history.cosines().masked_fill(off, float("nan"))
    values = torch.stack([cosines[:, i, j] for i, j in pairs])
    steps = history.series("step")
    group = -(-values.shape[-1] // MAX_COLUMNS)
    values = torch.stack([part.nanmean(-1) for part in values.split(group, -1)], -1)
    edges = torch.cat([steps[::group], steps[-1:] + 1])
    axes.set_facecolor("#BBBBBB")
    rows = torch.arange(len(pairs) + 1) - 0.5
    mesh = axes.pcolormesh(
        edges.numpy(), rows.numpy(), values.numpy(), cmap="RdBu", vmin=-1, vmax=1
    )
    spans = edges.tolist()
    for row, conflict in enumerate(values < HATCHED_BELOW):
        bars = [
            (start, stop - start)
            for start, stop, on in zip(spans[:-1], spans[1:], conflict.tolist(), strict=True)
            if on
        ]
        axes.broken_barh(bars, (row - 0.5, 1), facecolor="none", hatch="////", linewidth=0)
    labels = [f"{names[i]} – {names[j]}" for i, j in pairs]
    axes.set(xlabel="step", yticks=range(len(pairs)), yticklabels=labels)
    axes.invert_yaxis()
    axes.set_title(
        f"cosine of the gradients; hatched below {HATCHED_BELOW}", fontsize=9, loc="left"
    )
    axes.figure.colorbar(mesh, ax=axes, pad=0.02)
    return axes


def _axes(history: History, axes: Axes | None, caller: str, *, height: float) -> Axes:
    if not len(history):
        raise ValueError(
            f"`history` of `{caller}` must hold at least one record; got none. Call"
            " history(record) after each step."
        )
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"`{caller}` needs matplotlib: pip install matplotlib") from error
    return pyplot.subplots(figsize=(7.2, height), layout="constrained")[1]
