"""A file is of one run: whole after a kill, continued from a checkpoint, mixed with no other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import moopt
from moopt.diagnostics import History, JsonLinesWriter, read_json_lines
from tests.diagnostics.runs import train


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


@pytest.fixture(scope="module")
def whole() -> History:
    """The run that nothing interrupted."""
    history = History()
    train(history)
    return history


def test_every_line_is_on_disk_at_once_and_reads_back(path, whole):
    counts = []
    with JsonLinesWriter(path) as write:
        train(write, lambda _: counts.append(len(path.read_text().splitlines())))
    assert counts == list(range(1, 7))
    assert read_json_lines(path).rows == whole.rows
    with pytest.raises(ValueError, match="closed"):
        write(moopt.StepRecord())


def test_a_second_run_is_refused_and_harms_nothing(path):
    with JsonLinesWriter(path) as write:
        train(write, steps=4)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"records.jsonl.*first_step=0 .*first_step=k"):
        JsonLinesWriter(path)
    assert path.read_bytes() == before
    with JsonLinesWriter(path, first_step=0) as write:
        train(write, steps=2)
    assert read_json_lines(path).series("step").tolist() == [0, 1]
    empty = path.with_name("empty.jsonl")
    empty.touch()
    JsonLinesWriter(empty).close()


@pytest.mark.parametrize("cut", [0, 1, 20], ids=["whole", "no newline", "half a line"])
@pytest.mark.parametrize("checkpoint", [1, 3, 4])
def test_a_resumed_run_leaves_the_file_of_one_that_was_not_interrupted(
    path, whole, checkpoint, cut
):
    """Killed after step 5 or within its line; the steps since the checkpoint are done again."""
    with JsonLinesWriter(path) as write:
        train(write)
    kept = path.read_bytes().splitlines(keepends=True)[:5]
    path.write_bytes(b"".join(kept)[: -cut or None])
    resumed = History(read_json_lines(path).rows if cut < 2 else (), first_step=checkpoint)
    with JsonLinesWriter(path, first_step=checkpoint) as write:
        train(write, resumed, skip=checkpoint)
    back = read_json_lines(path)
    assert back.series("step").tolist() == list(range(6))
    for key in ("loss/a", "weight/a", "stationarity"):
        assert back.series(key).tolist() == whole.series(key).tolist()
    if cut < 2:
        assert resumed.rows == back.rows


def test_a_checkpoint_at_the_last_step_keeps_a_last_line_without_its_end(path):
    path.write_text('{"step": 0.0, "weight/a": 1.0}\n{"step": 1.0, "weight/a": 2.0}')
    with JsonLinesWriter(path, first_step=2) as write:
        write(moopt.StepRecord())
    assert [row["step"] for row in map(json.loads, path.read_text().splitlines())] == [0, 1, 2]


def test_a_writer_and_a_history_refuse_the_next_run(path):
    history = History()
    with JsonLinesWriter(path) as write:
        train(write, history, steps=3)
        for keeper in (write, history):
            with pytest.raises(ValueError, match="of one run; got step 0 after 2"):
                train(keeper, steps=2)
    assert read_json_lines(path).rows == history.rows
    assert len(history) == 3


def test_a_file_of_two_runs_is_refused_by_its_line(path):
    line = '{{"step": {}.0, "weight/a": 1.0}}\n'
    path.write_text("".join(line.format(step) for step in (0, 1, 2, 0, 1)))
    with pytest.raises(ValueError, match=r"line 4 of records.jsonl .*got step 0 after 2"):
        read_json_lines(path)
    with pytest.raises(ValueError, match=r"line 4 of records.jsonl"):
        JsonLinesWriter(path, first_step=2)
    rows = [{"step": step} for step in (0.0, 1.0, 0.0)]
    with pytest.raises(ValueError, match="`History` must get the records of one run"):
        History(rows)


def test_steps_that_nobody_counted_cannot_be_continued(path):
    """The functional core's records all have step 0: which were done again is not to be told."""
    w = torch.nn.Parameter(torch.ones(1))
    with JsonLinesWriter(path) as write:
        for _ in range(3):
            write(moopt.backward({"a": w.sum()}, [w]))
    history = read_json_lines(path)
    assert len(history) == 3
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"`moopt.backward` counts none"):
        JsonLinesWriter(path, first_step=2)
    with pytest.raises(ValueError, match=r"`moopt.backward` counts none"):
        History(history.rows, first_step=2)
    assert path.read_bytes() == before


@pytest.mark.parametrize("wrong", [-1, 1.0, True, "2"])
def test_first_step_is_a_count(path, wrong):
    for make in (lambda s: JsonLinesWriter(path, first_step=s), lambda s: History(first_step=s)):
        with pytest.raises(ValueError, match="None or an int >= 0"):
            make(wrong)


def test_a_line_that_is_no_record_is_named(path):
    path.write_text('{"weight/a": 1.0}\n{"weigh\n{"weight/a": 1.0}\n')
    for read in (read_json_lines, lambda p: JsonLinesWriter(p, first_step=1)):
        with pytest.raises(ValueError, match=r"line 2 of records.jsonl .*remove that line"):
            read(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="must be a JSON object; got list"):
        read_json_lines(path)


def test_what_is_not_finite_is_null_and_reads_as_nan(path):
    w = torch.nn.Parameter(torch.ones(1))
    with JsonLinesWriter(path) as write:
        write(moopt.backward({"a": w.sum() * math.inf}, [w]))
    assert json.loads(path.read_text())["loss/a"] is None
    assert math.isnan(read_json_lines(path).rows[0]["loss/a"])


@pytest.mark.parametrize("text", ["important notes", "[1, 2]", '{"step": "3"}'])
def test_a_file_of_something_else_is_refused_and_kept(path, text):
    path.write_text(text)
    with pytest.raises(ValueError, match=r"line 1 of records\.jsonl must be a JSON object"):
        JsonLinesWriter(path, first_step=5)
    assert path.read_text() == text
