"""Pictures of paths towards a Pareto front: a row per method, a column per problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WIDTH = 7.5  # inches; a page shows it at about 750 pixels, a point of type then being 1.4
ROW = 1.5
COLORS = 48
COINCIDE = 0.07  # of the side of a panel: ends that are closer get one dot


def root(values: Any) -> Any:
    """The square root, with a margin below zero."""
    points = torch.as_tensor(values, dtype=torch.float64)
    return (points.abs().sqrt() * points.sign()).numpy()


def square(values: Any) -> Any:
    points = torch.as_tensor(values, dtype=torch.float64)
    return (points * points.abs()).numpy()


def together(points: Tensor) -> list[list[int]]:
    """Groups of points `[k, 2]`, in units of the panel, that one dot has to stand for."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        for group in groups:
            if (points[group].mean(0) - point).norm() < COINCIDE:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def draw(
    target: Path,
    fronts: Mapping[str, Tensor],
    paths: Mapping[str, Mapping[str, Sequence[Tensor]]],
    rooted: Sequence[str],
) -> None:
    """Write one picture.

    Args:
        target: a PNG file; its folder is made.
        fronts: `[k, 2]` by problem, the columns.
        paths: by method, the rows, and problem: `[steps + 1, 2]` for each start.
        rooted: the problems whose losses range so far that their axes are spaced by square roots.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    pyplot.rcParams.update({"font.size": 9})
    figure, axes = pyplot.subplots(
        len(paths), len(fronts), figsize=(WIDTH, ROW * len(paths) + 0.6),
        sharex="col", sharey="col", layout="constrained", squeeze=False,
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
    for column, (problem, front) in zip(axes.T, fronts.items(), strict=True):
        worst = front.amax(0)
        every = torch.cat([run for runs in paths.values() for run in runs[problem]])
        largest = torch.maximum((every / worst).amax(0), torch.ones(2, dtype=torch.float64))
        for panel, runs in zip(column, paths.values(), strict=True):
            scale_axes(panel, largest.tolist(), problem in rooted)
            draw_runs(panel, front / worst, [run / worst for run in runs[problem]])
        column[0].set_title(problem + ("\n(root axes)" if problem in rooted else ""), fontsize=10)
    for row, name in zip(axes, paths, strict=True):
        row[0].set_ylabel(name, fontsize=10, fontweight="bold")
    figure.supxlabel("first loss", fontsize=9)
    figure.supylabel("second loss", fontsize=9)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=200)
    pyplot.close(figure)
    with Image.open(target) as picture:  # a palette makes the file four times smaller
        small = picture.convert("RGB").quantize(COLORS)
    small.save(target, optimize=True)


def scale_axes(panel: Any, largest: Sequence[float], rooted: bool) -> None:
    """Every path is within the frame."""
    if rooted:
        panel.set_xscale("function", functions=(root, square))
        panel.set_yscale("function", functions=(root, square))
    for far, name in zip(largest, ("x", "y"), strict=True):
        low, high = (-0.02, 1.12 * far) if rooted else (-0.08, far + 0.12)
        ticks = [t for t in (0, 0.5, 1, 2, 4, 6) if t <= high and (t != 0.5 or far < 2)]
        panel.set(**{f"{name}lim": (low, high), f"{name}ticks": ticks})
        getattr(panel, f"set_{name}ticklabels")([f"{tick:g}" for tick in ticks])
    panel.tick_params(labelsize=8, length=2)


def draw_runs(panel: Any, front: Tensor, runs: Sequence[Tensor]) -> None:
    """The front, the paths, where they start, and their ends: one dot, with a number if several."""
    panel.plot(*front.T.numpy(), color="#C8C8C8", linewidth=5, solid_capstyle="round", zorder=1)
    for run in runs:
        panel.plot(*run.T.numpy(), color="#0B3C78", linewidth=0.9, zorder=2)
        panel.plot(*run[0].tolist(), "|", color="#0B3C78", markersize=5, zorder=2)
    ends = torch.stack([run[-1] for run in runs])
    to_panel = panel.transScale + panel.transLimits
    for group in together(torch.as_tensor(to_panel.transform(ends.numpy()))):
        place = ends[group].mean(0).tolist()
        size = 5 if len(group) == 1 else 9.5
        panel.plot(*place, "o", color="#FFB266", markersize=size, mec="black", mew=0.7, zorder=3)
        if len(group) > 1:
            panel.annotate(
                str(len(group)), place, ha="center", va="center_baseline", fontsize=7.5, zorder=4
            )
