"""Reports: no ratio of wrong results, 100 columns, an exit code that tells; timing in turn."""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as all_benchmarks
from benchmarks import peer, share, solver
from benchmarks.cases.rows import PLAIN
from benchmarks.harness import Timing, interleaved
from benchmarks.report import MAX_COLUMNS, REFUSED, Report, format_table, main
from moopt.solvers import SolverResult


def uniform(gramian: Tensor) -> SolverResult:
    """Planted violator: a fast answer that is not a minimum-norm point."""
    nothing = torch.zeros(())
    return SolverResult(torch.full_like(gramian[0], 1 / len(gramian)), nothing, nothing, nothing)


def not_installed(*args: object, **kwargs: object) -> None:
    """Whatever asks for the peer where there is none; an ImportError would skip the test."""
    raise AssertionError("TorchJD was asked for, which is not installed")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solver benchmark, cut down to seconds."""
    monkeypatch.setattr(solver, "SIZES", (2,))
    monkeypatch.setattr(solver, "NORM_RATIOS", (1.0,))


def test_a_failed_gate_withholds_every_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("name", "claim")
    assert report.gate("first", True, "") is True
    assert report.speedup(4.0, 2.0) == "2.0x"
    assert report.gate("second", False, "") is False
    assert report.speedup(4.0, 2.0) == REFUSED
    report.goal("speed", 100.0, 1.0)
    assert "100" not in capsys.readouterr().out


@pytest.mark.usefixtures("short")
def test_the_solver_benchmark_without_its_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peer, "version", lambda: None)
    report = Report("solver", "claim")
    solver.run(report, True)
    assert report.passed
    printed = capsys.readouterr().out
    assert peer.MISSING in printed
    assert not re.search(r"TorchJD\s+\d", printed)


def test_the_step_benchmark_without_its_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On a small model it runs to its end, and says in words what it is not compared with."""
    monkeypatch.setattr(peer, "version", lambda: None)
    pytest.importorskip("transformers")
    for door in ("constant", "mgda", "jacobians", "combine"):
        monkeypatch.setattr(peer, door, not_installed)
    small = functools.partial(share.Step, tokens=8, width=16, hidden=24, layers=1, heads=2)
    monkeypatch.setattr(share, "Step", small)
    kept: list[bool] = []  # not of this process
    monkeypatch.setattr(share, "keep_the_heap", lambda: kept.append(True))
    path = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["x", "--json", str(path)])
    threads = torch.get_num_threads()
    try:
        main("share", "claim", share.run)
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert kept == [True]
    assert printed.count(peer.MISSING) == 4  # above, and under each table
    assert not re.search(r"^TorchJD", printed, flags=re.MULTILINE)
    written = json.loads(path.read_text())
    assert written["environment"]["torchjd"] == peer.MISSING
    assert len(written["gates"]) == 6
    assert len(written["results"]) == 3
    for found in written["results"].values():
        assert set(found) - {PLAIN} == {"plain", "moopt"}
        for spent in found.values():
            parts = (spent[phase] for phase in ("forward", "backward", "update", "rest"))
            assert sum(parts) == pytest.approx(spent["whole"], rel=0.5)  # medians of each
        assert 0.0 < found["moopt"]["share"] < 100.0


@pytest.mark.usefixtures("short")
def test_the_solver_benchmark_refuses_a_wrong_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "min_norm_point", uniform)
    report = Report("solver", "claim")
    solver.run(report, True)
    assert not report.passed


@pytest.mark.parametrize("passes", [True, False])
def test_the_exit_code_and_the_file(
    passes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "sub" / "out.json"
    monkeypatch.setattr(sys, "argv", ["x", "--json", str(path), "--quick"])
    threads = torch.get_num_threads()
    seen: list[bool] = []

    def run(report: Report, quick: bool) -> None:
        seen.append(quick)
        report.gate("gate", passes, "detail")

    try:
        if passes:
            main("name", "claim", run)
        else:
            with pytest.raises(SystemExit) as caught:
                main("name", "claim", run)
            assert caught.value.code == 1
    finally:
        torch.set_num_threads(threads)
    assert seen == [True]
    written = json.loads(path.read_text())
    assert written["gates"] == {"gate": {"passed": passes, "detail": "detail"}}
    assert written["environment"]["torch"] == torch.__version__


def test_one_failure_fails_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Done:
        def __init__(self, command: list[str]) -> None:
            calls.append(command[2])
            self.returncode = int(command[2].endswith("memory"))

    monkeypatch.setattr(all_benchmarks.subprocess, "run", Done)
    assert all_benchmarks.run_all([]) == 1
    assert calls == [f"benchmarks.{name}" for name in all_benchmarks.NAMES]
    monkeypatch.setattr(all_benchmarks, "NAMES", ("solver",))
    assert all_benchmarks.run_all([]) == 0


def test_tables_fit_their_columns() -> None:
    text = format_table(["name", "value"], [["a", 1], ["long name", "22"]])
    assert text.splitlines() == [
        "name       value",
        "-" * 16,
        "a              1",
        "long name     22",
    ]
    format_table(["x" * MAX_COLUMNS], [])
    with pytest.raises(ValueError, match="100 columns"):
        format_table(["x" * (MAX_COLUMNS + 1)], [])


def test_timing_goes_in_turn_and_pairs_the_rounds() -> None:
    calls: list[str] = []
    timings = interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=2,
        before=lambda: calls.append("-"),
    )
    assert "".join(calls) == "-a-b-b-a-a-b"
    assert [len(t.cpu) for t in timings.values()] == [2, 2]
    slow, base = Timing([], [5.0, 9.0, 2.0]), Timing([], [1.0, 1.0, 1.0])
    assert slow.over(base) == 4.0
    assert slow.median == 5.0


def test_every_benchmark_is_there_and_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text("utf-8")
    for name in all_benchmarks.NAMES:
        assert f"| `{name}` |" in page
        importlib.import_module(f"benchmarks.{name}")
