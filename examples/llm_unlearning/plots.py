"""Pictures of a run: trade-off curves, matched forgetting, and what every step saw.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; lines also differ in dash,
so that the pictures survive a black-and-white printer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.llm_unlearning.comparison import (
    checked_results,
    reference_point,
    seed_runs,
    summarise,
)
from examples.llm_unlearning.metrics.matched_forgetting import MARGIN
from moopt.diagnostics import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
SERIES = ((BLUE, "-"), (RED, "--"), (GREEN, "-."), (PURPLE, ":"), (ORANGE, "-"), (SKY, "--"))
GREY, INK = "#B8B8B8", "#222222"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


def write_plots(results: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write every picture of a run as PNG.

    Args:
        results: in the form that the docstring of `report` describes.
        directory: where to; made where it is missing.

    Returns:
        The files: `tradeoff.png`; `matched.png` where there is a gold model; and one
        `steps-<method>.png` for each method whose first seed has records of two objectives or more.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `results` are not in that form.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("the pictures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = checked_results(results)
    directory.mkdir(parents=True, exist_ok=True)
    out = []
    with pyplot.rc_context(STYLE):
        figures = {"tradeoff": tradeoff_figure(results)}
        if "gold" in results["references"]:
            figures["matched"] = matched_figure(results)
        for name in results["methods"]:
            seed, run = seed_runs(results, name)[0]
            if len(History(run["records"]).objectives) > 1:
                figures[f"steps-{slug(name)}"] = steps_figure(name, seed, run["records"])
        for stem, figure in figures.items():
            out.append(directory / f"{stem}.png")
            figure.savefig(out[-1])
            pyplot.close(figure)
    return out


def slug(name: str) -> str:
    """A method's name as part of a file name; names that differ by a plus stay apart.

    Example:
        >>> slug("MOLLM (MGDA loss+)")
        'mollm-mgda-loss-plus'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("+", " plus ")).strip("-")


def tradeoff_figure(results: Mapping[str, Any]) -> Any:
    """One panel per method: its curves over the others' in grey, between original and gold."""
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    names = list(results["methods"])
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=((3.1 if columns > 1 else 5.4) * columns + 0.6, 2.7 * rows + 1.0),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    curves = {
        name: [
            (
                [r["forget_accuracy"] for r in run["curve"]],
                [r["retain_utility"] for r in run["curve"]],
            )
            for _, run in seed_runs(results, name)
        ]
        for name in names
    }
    original, gold = (reference_point(results, name) for name in ("original", "gold"))
    for panel, name in zip(axes.flat, names, strict=False):
        for other in names:
            for x, y in curves[other] if other != name else ():
                panel.plot(x, y, color=GREY, linewidth=0.8, zorder=1)
        for x, y in curves[name]:
            panel.plot(x, y, color=BLUE, linewidth=1.5, marker="o", markersize=2.5, zorder=3)
        if gold is not None:
            panel.axvline(
                gold[0] + MARGIN, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2
            )
            panel.plot(*gold, "*", color=ORANGE, markeredgecolor=INK, markersize=12, zorder=5)
        if original is not None:
            panel.plot(*original, "s", color="white", markeredgecolor=INK, markersize=6, zorder=4)
        panel.set(title=name, xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    for panel in list(axes.flat)[len(names) :]:
        panel.set_visible(False)
    for column in range(columns):
        # The lowest visible panel of a column carries the tick labels.
        lowest = max(row for row in range(rows) if row * columns + column < len(names))
        axes[lowest, column].tick_params(labelbottom=True)
    label = "accuracy on the forget set (share of answers; lower is more forgotten)"
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("retain utility (0 to 1)", fontsize=9)
    dashed = (0, (4, 3))
    entries = [("this method, one line a seed", {"color": BLUE, "marker": "o", "markersize": 3})]
    if len(names) > 1:
        entries.append(("other methods", {"color": GREY}))
    outlined = {"color": "white", "markeredgecolor": INK}
    if original is not None:
        entries.append(("original model", outlined | {"marker": "s"}))
    if gold is not None:
        star = {"marker": "*", "markersize": 11, "markerfacecolor": ORANGE}
        entries.append(("gold model", outlined | star))
        entries.append(
            (f"matched forgetting (gold + {MARGIN})", {"color": INK, "linestyle": dashed})
        )
    handles = [Line2D([], [], label=text, **style) for text, style in entries]
    figure.legend(handles=handles, loc="outside upper center", ncols=max(2, columns), frameon=False)
    return figure


def matched_figure(results: Mapping[str, Any]) -> Any:
    """Retain utility at matched forgetting: bars with intervals, points for single seeds."""
    from matplotlib import pyplot

    summaries = summarise(results)
    ranked = sorted(summaries, key=lambda s: -1.0 if s.matched is None else s.matched.mean)
    figure, axes = pyplot.subplots(figsize=(7.6, 0.42 * len(ranked) + 1.5), layout="constrained")
    for y, summary in enumerate(ranked):
        points = [point for point in summary.points.values() if point is not None]
        if summary.matched is not None:
            interval = summary.matched
            ours = summary.name.startswith("MOLLM")
            axes.barh(y, interval.mean, height=0.62, color=BLUE if ours else GREY, zorder=2)
            if interval.low is not None:
                axes.plot([interval.low, interval.high], [y, y], color=INK, linewidth=1.6, zorder=4)
                for end in (interval.low, interval.high):
                    axes.plot([end, end], [y - 0.16, y + 0.16], color=INK, linewidth=1.6, zorder=4)
        if len(summary.points) > 1:
            axes.plot(
                points, [y + 0.22] * len(points), "o", color=ORANGE, markeredgecolor=INK,
                markeredgewidth=0.5, markersize=4, zorder=5,
            )  # fmt: skip
        if summary.matched is not None:
            axes.text(1.03, y, f"{summary.matched.mean:.3f}", va="center", color=INK)
        else:
            text = f"not ranked: reached in {summary.num_reached} of {len(summary.points)} seeds"
            # A little lower where the few seeds that did reach it have their dots.
            axes.text(0.01, y - 0.12, text, va="center", color=INK)
    gold = reference_point(results, "gold")
    dots = "; dots: single seeds" if len(results["seeds"]) > 1 else " over the test set's subjects"
    axes.set(
        yticks=range(len(ranked)), yticklabels=[s.name for s in ranked], xlim=(0, 1.13),
        xticks=np.linspace(0, 1, 6), ylim=(-0.6, len(ranked) - 0.1),
        xlabel=f"retain utility at matched forgetting (0 to 1)\nblack: 95 % interval{dots}",
    )  # fmt: skip
    if gold is not None:
        axes.axvline(gold[1], color=INK, linewidth=1.0, linestyle=(0, (4, 3)), zorder=3)
        axes.text(gold[1], len(ranked) - 0.42, "gold model ", ha="right", va="center", color=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return figure


def steps_figure(name: str, seed: str, records: Sequence[Mapping[str, float]]) -> Any:
    """Weights, norms, cosines and stationarity over the steps of one run."""
    from matplotlib import pyplot

    history = History(records)
    steps = history.series("step").numpy()
    objectives = history.objectives
    pairs = history.names_after("cosine/")
    figure, axes = pyplot.subplots(
        4, 1, figsize=(7.6, 7.6), sharex=True, layout="constrained",
        gridspec_kw={"height_ratios": [1, 1, 1, 0.7]},
    )  # fmt: skip
    weights = history.table("weight").T.numpy()
    total = np.abs(np.nan_to_num(weights)).sum(axis=0)
    shares = weights / np.where(total > 0, total, 1)
    draw(axes[0], steps, shares, objectives)
    inactive = history.table("inactive").T.numpy() == 1
    for i, row in enumerate(inactive):
        axes[0].plot(
            steps[row], shares[i][row], "x", color=SERIES[i % len(SERIES)][0], markersize=6,
            markeredgewidth=1.6, zorder=6,
        )  # fmt: skip
    marks = " (x: inactive, weight 0)" if inactive.any() else ""
    axes[0].set(title=f"{name}, seed {seed}: weights{marks}", ylabel="weight / sum of |weights|")
    norms = history.table("norm").T.numpy()
    # A norm at its noise floor would stretch the axis over ten decades of rounding.
    draw(axes[1], steps, np.where((norms > 0) & ~inactive, norms, np.nan), objectives, log=True)
    axes[1].set(title="Gradient norms", ylabel="norm (log scale)")
    axes[2].set_ylim(-1.05, 1.05)
    cosines = np.array([history.series(f"cosine/{pair}").numpy() for pair in pairs])
    draw(axes[2], steps, cosines, [p.replace(",", " – ") for p in pairs])
    axes[2].axhspan(-1.05, 0, color="#F3E4DC", zorder=0)
    axes[2].text(0.008, -0.95, "conflict", transform=axes[2].get_yaxis_transform(), color=RED)
    axes[2].set(title="Cosines between gradients", ylabel="cosine")
    draw(axes[3], steps, history.series("stationarity").numpy()[None], [""])
    axes[3].set(
        title="Distance from Pareto stationarity", ylabel="min-norm of\nunit gradients",
        ylim=(-0.03, 1.03), xlabel="step",
    )  # fmt: skip
    return figure


def draw(
    axes: Axes, steps: np.ndarray, values: np.ndarray, labels: Sequence[str], log: bool = False
) -> None:
    """Lines with their names at the right end; long noisy runs get a running median on top."""
    ends = []
    window = max(1, len(steps) // 25)
    for i, row in enumerate(values):
        color, dash = SERIES[i % len(SERIES)]
        smooth = running_median(row, window)
        if window > 1:
            axes.plot(steps, row, color=color, linewidth=0.6, alpha=0.35, zorder=2)
        axes.plot(steps, smooth, color=color, linestyle=dash, linewidth=1.7, zorder=3)
        known = smooth[np.isfinite(smooth)]
        ends.append(known[-1] if len(known) else np.nan)
    if log:
        axes.set_yscale("log")
    axes.margins(x=0.01)
    axes.autoscale_view()
    figure_height = axes.get_position().height * axes.figure.get_size_inches()[1]
    place_labels(axes, ends, labels, spacing=0.16 / figure_height)


def running_median(row: np.ndarray, window: int) -> np.ndarray:
    """Median over `window` neighbours, shorter at the ends, NaN only where all are NaN."""
    out = np.full(len(row), np.nan)
    for i in range(len(row)):
        near = row[max(0, i - window // 2) : i + window // 2 + 1]
        near = near[np.isfinite(near)]
        if near.size:
            out[i] = np.median(near)
    return out


def place_labels(axes: Axes, ends: Sequence[float], labels: Sequence[str], spacing: float) -> None:
    """Put each label beside its line's end, moved apart until none overlap.

    Args:
        axes: whose limits are final after the lines were drawn.
        ends: each line's last value, in data units.
        labels: one per line; an empty one is not drawn.
        spacing: least distance, as a share of the axes' height.
    """
    chosen = [
        i
        for i, (end, label) in enumerate(zip(ends, labels, strict=True))
        if label and np.isfinite(end)
    ]
    if not chosen:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = {i: float(to_axes.transform((0, ends[i]))[1]) for i in chosen}
    order = sorted(chosen, key=heights.get)
    placed = spread([heights[i] for i in order], spacing)
    for i, height in zip(order, placed, strict=True):
        axes.annotate(
            labels[i], (1.0, height), xycoords="axes fraction", xytext=(4, 0),
            textcoords="offset points", va="center", color=SERIES[i % len(SERIES)][0],
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], spacing: float) -> list[float]:
    """Sorted heights, moved as little as needed to stand `spacing` apart and inside [0, 1].

    Neighbours that are too close are merged into one block around their common centre. More
    labels than fit stick out, evenly spaced.

    Example:
        >>> [round(h, 2) for h in spread([0.5, 0.5, 0.99], 0.1)]
        [0.45, 0.55, 0.95]
    """

    def inside(centre: float, size: int) -> float:
        half = min(0.5, spacing * size / 2)
        return min(max(centre, half), 1 - half)

    blocks: list[tuple[float, int]] = []
    for height in heights:
        centre, size = inside(height, 1), 1
        while blocks and centre - blocks[-1][0] < spacing * (size + blocks[-1][1]) / 2:
            other, count = blocks.pop()
            size += count
            centre = inside((centre * (size - count) + other * count) / size, size)
        blocks.append((centre, size))
    return [centre + spacing * (k - (size - 1) / 2) for centre, size in blocks for k in range(size)]
