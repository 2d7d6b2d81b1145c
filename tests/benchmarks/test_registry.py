"""The registry and its runner: a red gate has no time, and a record says all that it is to say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import against, plots, run
from benchmarks.cases import rows, small_step, solves
from benchmarks.registry import Case, Goal, Inputs, Setting, Way, every

CPU = torch.device("cpu")
KNOWN = {"revision": "abc", "dirty": False, "versions": {}, "machine": "", "threads": 1}
FIELDS = {
    *("case", "operation", "way", "ours", "gate", "revision", "dirty", "versions", "machine"),
    *("threads", "device", "dtype", "m", "n", "shapes", "bytes", "clock", "load", "rounds"),
    *("calls", "p20", "p50", "p80", "floor_ratio", "peer_ratios"),
}
WRONG = "an entry is wrong"


def case_of(inputs: Inputs, **more: object) -> Case:
    setting = Setting(2, [(3, 4), (5,)], torch.float32)
    return Case("planted", "planted", setting, lambda _: inputs, **more)  # type: ignore[arg-type]


def busy(count: int) -> None:
    sum(range(count))


def three_ways(told: str) -> Inputs:
    """A way of ours that a gate judges, a peer ten times slower, and a way that moves memory."""
    return Inputs(
        {
            "moopt": Way(lambda: busy(2000), lambda: told, ours=True),
            "peer": Way(lambda: busy(20_000), lambda: "errs by 1"),
            "read": Way(lambda: busy(1000), bytes=100),
        }
    )


def test_a_red_gate_has_no_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = case_of(three_ways(WRONG), bytes=100, goals=[Goal("moopt", "floor", 100.0)])
    [(records, green)] = run.run([case], KNOWN, quick=True)
    ours = next(record for record in records if record["way"] == "moopt")
    assert not green
    assert ours["gate"] == WRONG
    assert not {"p20", "p50", "p80", "floor_ratio", "peer_ratios"} & ours.keys()
    printed = capsys.readouterr().out
    assert f"GATE RED, no time: moopt: {WRONG}" in printed
    assert "goal" not in printed
    assert not [line for line in printed.splitlines() if line.startswith("moopt ")]
    assert "p50" in next(record for record in records if record["way"] == "peer")


def test_a_record_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    case = case_of(three_ways(""), bytes=100, goals=[Goal("moopt", "peer", 0.5)])
    [(records, green)] = run.run([case], KNOWN, quick=True)
    assert green
    for record in records:
        assert record.keys() == FIELDS, record["way"]
        assert 0.0 < record["p20"] <= record["p50"] <= record["p80"]
        json.dumps(record, allow_nan=False)
    ours, theirs, read = records
    assert (ours["m"], ours["n"], ours["shapes"]) == (2, 17, {"3x4": 1, "5": 1})
    assert ours["peer_ratios"] == {"peer": pytest.approx(theirs["p50"] / ours["p50"])}
    assert 4.0 < ours["peer_ratios"]["peer"] < 25.0
    assert ours["floor_ratio"] == pytest.approx(ours["p50"] / read["p50"])
    assert read["floor_ratio"] is None
    printed = capsys.readouterr().out
    assert "note: peer: errs by 1" in printed
    assert "goal: moopt in at most 0.5 times peer" in printed


def test_the_base_is_taken_off() -> None:
    inputs = Inputs(
        {
            "plain": Way(lambda: busy(50_000)),
            "moopt": Way(lambda: busy(100_000), ours=True),
        },
        base="plain",
    )
    plain, ours = run.measure(case_of(inputs), KNOWN, quick=True)
    assert 0.3 * plain["p50"] < ours["p50"] < 3.0 * plain["p50"]
    assert ours["peer_ratios"] == {}


def test_what_cannot_run_is_said_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    def build(_: Setting) -> Inputs:
        raise ImportError("cannot import name 'reference_only'")

    case = dataclasses.replace(case_of(Inputs({})), build=build)
    assert list(run.run([case, ("family", "no module")], KNOWN)) == []
    printed = capsys.readouterr().out
    assert "planted: cannot run here, ImportError: cannot import name" in printed
    assert "family: cannot run here, no module" in printed


def test_names_are_unique_and_every_family_imports() -> None:
    cases = list(every(CPU))
    assert all(isinstance(case, Case) for case in cases)
    names = [case.name for case in cases if isinstance(case, Case)]
    assert len(names) == len(set(names))
    operations = {case.operation for case in cases if isinstance(case, Case)}
    assert operations >= {
        *("gramian", "combine", "step", "min_norm", "min_norm batch", "dual_cone"),
        *("output_layer", "small_step"),
    }


SMALL = Setting(3, [(40, 30), (17,)], torch.float32)


@pytest.mark.parametrize("build", [rows.gramians, rows.combinations, rows.steps])
def test_the_gates_of_rows_are_green(build) -> None:
    inputs = build(SMALL)
    if inputs.before is not None:
        inputs.before()
    ours = {name: way for name, way in inputs.ways.items() if way.ours}
    assert "moopt" in ours
    assert {name: way.gate() for name, way in ours.items()} == dict.fromkeys(ours, "")


def test_the_gates_of_rows_find_planted_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, combine = rows.gramian, rows.combine_
    monkeypatch.setattr(rows, "gramian", lambda given: 1.00001 * exact(given))
    assert "inner product" in rows.gramians(SMALL).ways["moopt"].gate()
    monkeypatch.setattr(rows, "combine_", lambda given, weights: combine(given, weights.flip(0)))
    assert "entry" in rows.combinations(SMALL).ways["moopt"].gate()
    inputs = rows.steps(SMALL)
    assert inputs.before is not None
    ways = inputs.ways["moopt"]
    assert ways.gate() == ""
    monkeypatch.setattr(rows.Step, "ours", lambda self: self.optimizer.backward(self.losses[:1]))
    assert rows.steps(SMALL).ways["moopt"].gate() != ""


@pytest.mark.parametrize("build", [solves.min_norm, solves.dual_cone])
def test_the_gates_of_solves(build, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(3, [(3, 3)], torch.float64)
    inputs = build(setting)
    assert inputs.ways["moopt"].gate() == ""
    for name in ("min_norm_point", "dual_cone_point"):
        right = getattr(solves, name)

        def wrong(*given: torch.Tensor, right=right):
            found = right(*given)
            return found._replace(weights=found.weights * torch.tensor([1.0, 1.0, 1.0001]))

        monkeypatch.setattr(solves, name, wrong)
    assert "errs by" in build(setting).ways["moopt"].gate()
    assert "LibMTL's Frank-Wolfe" in solves.min_norm(setting).ways


@pytest.mark.parametrize("m", [2, 3, 8])
def test_the_peers_solve_what_they_are_given(m: int) -> None:
    """nnls and quadprog are exact to their own tolerances; Frank-Wolfe is near, and no more."""
    pytest.importorskip("scipy")
    pytest.importorskip("quadprog")
    mild = [p for p in solves.problems(Setting(m, [(m, m)])) if p.family == "orthogonal"]
    for problem in mild:
        gramian = problem.gramian.numpy()
        for name, (_, hull) in solves.HULLS.items():
            error = solves.certificate(problem, torch.from_numpy(hull(gramian)))
            assert error <= (0.2 if "Wolfe" in name else 1e-6), name


def test_the_small_step_raises_nothing() -> None:
    inputs = small_step.small_step(Setting(3, [(32, 32)]))
    for name, way in inputs.ways.items():
        if way.ours:
            assert way.gate() == "", name
    step = small_step.SmallStep(Setting(3, [(32, 32)]))

    def upwards() -> None:
        step.base.zero_grad()
        step.losses()[0].neg().backward()

    assert "raises a loss" in step.gate(upwards)


def test_the_command_writes_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--json", str(path)]
    done = subprocess.run(
        [*command, "--only", "dual_cone, m = 3$"], capture_output=True, text=True, check=True
    )
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0].keys() == FIELDS
    assert records[0]["versions"]["torch"] == torch.__version__
    assert "1 cases, written to" in done.stdout
    nothing = subprocess.run([*command, "--only", "no such case"], capture_output=True, text=True)
    assert nothing.returncode == 1
    assert "no case has 'no such case' in its name" in nothing.stdout


def record(case: str, way: str, p50: float | None, gate: str = "") -> dict[str, object]:
    known = {"case": case, "way": way, "ours": True, "gate": gate}
    return known if p50 is None else known | {"p50": p50}


def test_revisions_are_compared_by_their_medians() -> None:
    here = [record("a", "moopt", 2e-6), record("b", "moopt", 1e-6), record("c", "moopt", None, "x")]
    there = [record("a", "moopt", 4e-6), record("c", "moopt", 1e-6)]
    table, told = against.compared([("here", here), ("there", there), ("there", there)])
    assert table == [["a", "moopt", "4", "2", "0.50"]]
    assert told == ["here, c, moopt: gate red, x", "b, moopt: not there"]


@pytest.mark.parametrize("fails", [True, False])
def test_a_worktree_is_removed_in_any_case(fails: bool) -> None:
    git = ["git", "-C", str(against.ROOT)]
    if subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("not a git repository")
    trees = []

    def used() -> None:
        with against.checked_out("HEAD") as tree:
            assert (tree / "moopt" / "__init__.py").exists()
            trees.append(tree)
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            used()
    else:
        used()
    [tree] = trees
    assert not tree.exists()
    listed = subprocess.run([*git, "worktree", "list"], capture_output=True, text=True, check=True)
    assert str(tree) not in listed.stdout


def test_pictures_of_a_few_records(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    known = {"p20": 0.9e-4, "p50": 1e-4, "p80": 1.2e-4, "way": "moopt", "floor_ratio": 1.5}
    records = [
        *(known | {"operation": "min_norm", "case": f"m = {m}", "m": m, "n": 9} for m in (2, 3)),
        *(known | {"operation": "step", "case": f"step, n = {n}", "m": 3, "n": n} for n in (9, 99)),
        known | {"operation": "step", "case": "step, LoRA", "m": 3, "n": 9},
    ]
    for name, draw in plots.PICTURES.items():
        path = tmp_path / f"{name}.png"
        assert draw(records, path)
        assert path.stat().st_size > 1000
        assert not draw([], path)
