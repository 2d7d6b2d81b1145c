"""Pictures show every number that there is, agree with the record, and are never empty."""

from __future__ import annotations

import math

import pytest
import torch

import moopt
from moopt.aggregators import GradDrop
from moopt.diagnostics import History, conflict_matrix, plot_cosines, plot_weights
from moopt.scalarizations import STCH
from tests.diagnostics.runs import train
from tests.optimizer.problems import OneOutput, batch, seeded

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def history() -> History:
    history = History()
    train(history)
    return history


def run(method, steps=3) -> History:
    model, history = seeded(OneOutput), History()
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), method)
    for step in range(steps):
        optimizer.zero_grad()
        history(optimizer.backward(model.losses(batch(step))))
        optimizer.step()
    return history


def hatched(axes) -> list[int]:
    """How many cells of each pair are hatched."""
    return [len(c.get_paths()) for c in axes.collections if c.get_hatch()]


def keys(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_weights_are_the_shares_of_the_record(history, tmp_path):
    axes = plot_weights(history)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert keys(axes) == ["a", "b", "c", "noise", "inactive"]
    torch.testing.assert_close(
        torch.as_tensor(lines["a"].get_ydata()), history.table("weight")[:, 0], equal_nan=True
    )
    axes.figure.savefig(tmp_path / "weights.png")


def test_twelve_objectives_have_twelve_styles():
    many = History([{f"weight/{i}": 1.0 for i in range(12)} | {"step": s} for s in (0.0, 1.0)])
    styles = [
        (line.get_color(), line.get_linestyle(), str(line._dash_pattern))
        for line in plot_weights(many).get_lines()
        if line.get_label().isdigit()
    ]
    assert len(set(styles)) == 12


def test_a_weight_without_neighbours_is_seen():
    """One record, or an objective that is there in every other step: a line draws nothing."""
    row = {"weight/a": 1.0, "step": 0.0}
    every_other = [
        row | {"step": float(s)} | ({"weight/b": 1.0} if s % 2 else {}) for s in range(4)
    ]
    for rows, marked in (([row], {"a": [0]}), (every_other, {"a": [], "b": [1, 3]})):
        lines = [line for line in plot_weights(History(rows)).get_lines() if len(line.get_xdata())]
        assert {line.get_label(): line.get_markevery() for line in lines} == marked
        assert all((line.get_marker() != "None") == bool(line.get_markevery()) for line in lines)


def test_no_weight_is_an_error_that_says_why():
    cases = {
        "no record of a step": History(),
        "GradDrop, has no weights. Use plot_cosines": run(GradDrop()),
        "were not finite": History([{"weight/a": math.nan, "weight/b": math.nan, "step": 0.0}]),
    }
    for why, history in cases.items():
        with pytest.raises(ValueError, match=f"`plot_weights` must hold at least one .*{why}"):
            plot_weights(history)
    assert not pyplot.get_fignums()
    plot_weights(run(STCH()))
    some = History([{"weight/a": 1.0, "loss/a": 1.0, "loss/b": 1.0, "step": 0.0}])
    assert keys(plot_weights(some)) == ["a", "b (no weights)"]


def test_weights_that_are_all_zero_have_an_axis_of_shares():
    low, high = plot_weights(History([{"weight/a": 0.0, "step": 0.0}])).get_ylim()
    assert low < 0 < 1 < high


def test_the_hatching_is_the_conflicts_of_the_record(tmp_path):
    """However small: the shares of `conflict_matrix` can be counted in the picture."""
    records, history = [], History()
    train(records.append, history)
    counts = [
        sum(pair in record.conflicts for record in records)
        for pair in (("a", "b"), ("a", "c"), ("a", "noise"), ("b", "c"))
    ]
    _, given = pyplot.subplots(layout="constrained")
    assert plot_cosines(history, given) is given
    assert given.get_yticklabels()[0].get_text() == "a – b"
    assert hatched(given)[:4] == counts
    assert counts[0] > 0
    assert keys(given) == ["conflict (cosine below 0)", "absent, inactive or not finite"]
    given.figure.savefig(tmp_path / "cosines.png")

    row = {"weight/a": 1.0, "weight/b": 1.0, "norm/a": 1.0, "norm/b": 1.0}
    cosines = (-1e-3, 0.5, -0.05, -1e-9, 0.0)
    small = History([row | {"cosine/a,b": c, "step": float(s)} for s, c in enumerate(cosines)])
    axes = plot_cosines(small)
    assert hatched(axes) == [2]
    assert float(conflict_matrix(small).share[0, 1]) == 2 / 5
    assert keys(axes) == ["conflict (cosine below 0)"]


def test_a_column_of_several_steps_is_hatched_where_half_of_them_conflict():
    """By their number, as the matrix counts, and not by the sign of their mean."""
    row = {"weight/a": 1.0, "weight/b": 1.0, "norm/a": 1.0, "norm/b": 1.0}
    cosines = 100 * (-0.1, -0.1, 0.9) + 100 * (0.1, 0.1, -0.9)
    rows = [row | {"cosine/a,b": c, "step": float(s)} for s, c in enumerate(cosines)]
    axes = plot_cosines(History(rows))
    assert axes.collections[0].get_array().shape[-1] == 200
    assert hatched(axes) == [100]
    assert keys(axes) == ["conflict in half of 3 steps or more"]


def test_records_without_step_numbers_stand_side_by_side():
    w, history = torch.nn.Parameter(torch.ones(2)), History()
    for sign in (1.0, -1.0, 1.0):
        history(moopt.backward({"a": w[0] + w[1], "b": w[0] + 9 * sign * w[1]}, [w]))
    axes = plot_cosines(history)
    assert axes.get_xlabel() == "record"
    edges = axes.collections[0].get_coordinates()[0, :, 0].tolist()
    assert edges == [0, 1, 2, 3]
    assert hatched(axes) == [1]
    axes = plot_weights(history)
    assert axes.get_xlabel() == "record"
    assert axes.get_lines()[0].get_xdata().tolist() == [0, 1, 2]


def test_the_last_of_sparse_records_is_as_wide_as_the_others():
    row = {"weight/a": 1.0, "weight/b": 1.0, "norm/a": 1.0, "norm/b": 1.0, "cosine/a,b": 0.5}
    axes = plot_cosines(History([row | {"step": 10.0 * s} for s in range(3)]))
    assert axes.collections[0].get_coordinates()[0, :, 0].tolist() == [0, 10, 20, 30]


def test_neighbouring_steps_of_a_long_run_stay_apart():
    """float32 has no odd numbers past 2 ** 24."""
    row = {"weight/a": 1.0, "weight/b": 1.0}
    axes = plot_weights(History([row | {"step": 2.0**24 + s} for s in range(3)]))
    assert axes.get_xlabel() == "step"
    assert (axes.get_lines()[0].get_xdata() - 2**24).tolist() == [0, 1, 2]
