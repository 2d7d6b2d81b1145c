"""Diagnostics: tables with gaps, files that survive, and pictures of what happened."""

from __future__ import annotations

import math

import pytest
import torch

import moopt
from moopt.diagnostics import (
    History,
    JsonLinesWriter,
    TensorBoardWriter,
    conflict_matrix,
    objective_progress,
    plot_cosines,
    read_json_lines,
)
from tests.diagnostics.runs import train


@pytest.fixture(scope="module")
def history() -> History:
    history = History()
    train(history)
    return history


def test_tables_hold_what_the_records_said_with_gaps_where_an_objective_was_absent(history):
    assert history.objectives == ("a", "b", "c", "noise")
    weights = history.table("weight")
    assert weights.shape == (6, 4)
    assert weights[:3].nansum(-1).tolist() == pytest.approx([1.0] * 3)
    assert weights[3:, 2].isnan().all()
    assert not weights[:3].isnan().any()
    assert (history.table("inactive")[:, 3] == 1).all()
    assert history.series("step").tolist() == list(range(6))
    cosines = history.cosines()
    torch.testing.assert_close(cosines, cosines.mT, equal_nan=True)
    assert cosines[:, 0, 0].tolist() == [1.0] * 6
    assert cosines[3:, 2].isnan().all()
    with pytest.raises(ValueError, match="must be 'loss', 'weight'"):
        history.table("stationarity")


def test_every_keeps_the_first_of_k_calls():
    thin = History(every=4)
    train(thin)
    assert thin.series("step").tolist() == [0.0, 4.0]
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="must be an int >= 1"):
            History(every=wrong)


def test_conflicts_are_counted_over_steps_in_which_both_were_active():
    rows = [
        {"weight/a": 1.0, "weight/b": 1.0, "norm/a": 1.0, "norm/b": 1.0, "cosine/a,b": c}
        for c in (-0.5, 0.5, -0.25, -1e-9)
    ]
    rows.append(rows[0] | {"inactive/b": 1.0})
    rows.append(rows[0] | {"cosine/a,b": math.nan})
    matrix = conflict_matrix(History(rows))
    assert matrix.names == ("a", "b")
    assert matrix.steps[0, 1] == 4
    assert matrix.share[0, 1] == matrix.share[1, 0] == 0.5
    assert matrix.mean_cosine[0, 1] == pytest.approx(-0.0625)
    lines = str(matrix).splitlines()
    assert "share" in lines[0]
    assert "mean cosine" in lines[0]
    assert lines[2].split() == ["a", "-", "50", "%", "-0.06"]


def test_a_pair_that_never_met_prints_no_number():
    row = {f"{key}/{name}": 1.0 for key in ("weight", "norm") for name in "abc"}
    matrix = conflict_matrix(History([row | {"cosine/a,b": 0.5, "cosine/a,c": 0.25}]))
    assert matrix.share[1, 2].isnan()
    assert "nan" not in str(matrix)
    assert str(matrix).splitlines()[3].split() == ["b", "0", "%", "+0.50", "-", "no", "step"]


ONE = {"step": 0.0, "weight/a": 1.0, "norm/a": 1.0, "loss/a": 1.0}
TWO = ONE | {"weight/b": 1.0, "norm/b": 1.0, "loss/b": 1.0}
NO_COSINES = {
    "no record": ([], "got no record"),
    "no step": ([{"step": 0.0, "bypassed": 1.0}], "got 0 objective"),
    "one objective": ([ONE], "got 1 objective"),
    "a scalarization": ([TWO], "measures no gradients"),
    "inactive": ([TWO | {"cosine/a,b": -0.5, "inactive/b": 1.0}], "none in 1 records"),
    "not finite": ([TWO | {"cosine/a,b": math.nan}], "none in 1 records"),
}


@pytest.mark.parametrize("caller", [conflict_matrix, plot_cosines])
@pytest.mark.parametrize("case", NO_COSINES)
def test_no_cosine_is_an_error_and_not_the_absence_of_conflict(caller, case):
    rows, what = NO_COSINES[case]
    with pytest.raises(ValueError, match=f"`{caller.__name__}` .*two active objectives.*{what}"):
        caller(History(rows))


def test_a_number_that_no_row_holds_is_an_error_and_not_a_row_of_nan():
    history = History([ONE | {"stationarity": 0.5}, TWO])
    assert history.series("loss/b").tolist()[1] == 1.0
    assert history.series("stationarity").isnan().tolist() == [False, True]
    with pytest.raises(ValueError, match=r"got 'stationarty'. There are step, weight/..., norm/"):
        history.series("stationarty")
    assert History().series("step").tolist() == []


def test_a_name_with_a_comma_is_no_other_pair():
    names = ("a,b", "a", "b")
    model = torch.nn.Parameter(torch.eye(3)[0].clone())
    history = History()
    history(moopt.backward({n: model[i] + model.sum() for i, n in enumerate(names)}, [model]))
    torch.testing.assert_close(history.cosines()[0], torch.eye(3).double() / 6 + 5 / 6)


def test_names_with_commas_share_no_key():
    """ "a" beside "b,c" and "a,b" beside "c" would both be "cosine/a,b,c"."""
    names = ("a", "b,c", "a,b", "c", "a\\,b")
    w = torch.nn.Parameter(torch.ones(3))
    losses = dict(zip(names, (w[0], -w[0], w[1], w[1] + w[2], w[2]), strict=True))
    record = moopt.backward(losses, [w])
    history = History()
    history(record)
    torch.testing.assert_close(history.cosines()[0], record.cosines)


def test_a_record_that_comes_again_is_kept_once(tmp_path):
    history, w = History(), torch.nn.Parameter(torch.ones(2))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), "sum", record_every=3)
    with JsonLinesWriter(tmp_path / "a.jsonl") as write:
        for _ in range(7):
            optimizer.zero_grad()
            record = optimizer.backward({"a": w[0] ** 2, "b": (w[0] - w[1]) ** 2})
            optimizer.step()
            history(record)
            write(record)
    assert history.series("step").tolist() == [0.0, 3.0, 6.0]
    assert read_json_lines(tmp_path / "a.jsonl").rows == history.rows


def test_progress_averages_the_ends(history):
    progress = objective_progress(history, window=2)
    losses = history.table("loss")[:, 0]
    a = progress["a"]
    assert (a.first, a.last) == pytest.approx((float(losses[:2].mean()), float(losses[-2:].mean())))
    assert a.best == float(losses.min())
    assert a.change < 0
    assert a.fell == pytest.approx(float((losses.diff() < 0).double().mean()))
    assert progress["c"].steps == 3
    for rows in ([], [ONE], [{"weight/a": 1.0, "loss/a": math.nan}] * 3):
        with pytest.raises(ValueError, match=rf"two finite losses .*none in {len(rows)} records"):
            objective_progress(History(rows))
    with pytest.raises(ValueError, match="`window`"):
        objective_progress(history, window=0)


def test_tensorboard_files_hold_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = History()
    write = TensorBoardWriter(tmp_path, prefix="run", every=2)
    train(write, history)
    write.writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    seen = [(e.step, e.value) for e in events.Scalars("run/weight/a")]
    weights = history.table("weight")[:, 0]
    assert [step for step, _ in seen] == [0, 2, 4]
    assert [value for _, value in seen] == pytest.approx(weights[::2].tolist(), rel=1e-6)
    with pytest.raises(ValueError, match="`every` of `TensorBoardWriter`"):
        TensorBoardWriter(tmp_path, every=0)


def test_tensorboard_resumes_and_closes(tmp_path):
    """A resumed run counts from 0 again: `first_step` says where it goes on."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(first_step, steps):
        w = torch.nn.Parameter(torch.ones(2))
        optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1))
        with TensorBoardWriter(tmp_path, first_step=first_step) as write:
            for _ in range(steps):
                optimizer.zero_grad()
                write(optimizer.backward({"a": w[0] ** 2, "b": (w[1] - 1) ** 2 + w[0]}))
                optimizer.step()

    run(None, 3)
    run(2, 2)  # from a checkpoint after two steps
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("moopt/weight/a")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="`first_step` of `TensorBoardWriter`"):
        TensorBoardWriter(tmp_path, first_step=-1)
