"""The whole GPU set without a card, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import correct, goals, sanitized
from benchmarks.gpu.stage import Relaunched, Stage, constant, relaunched

COMMAND = [sys.executable, "-m", "benchmarks.gpu"]


@pytest.fixture(scope="module")
def needs_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("could not import 'triton'")


def test_without_a_device_it_refuses_in_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(COMMAND, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "triton is not installed" in done.stderr or "no CUDA device" in done.stderr


@pytest.mark.usefixtures("needs_triton")
def test_a_rehearsal_runs_every_stage(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = subprocess.run(
        [*COMMAND, "--rehearse", "--json", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(path.read_text())
    assert content["rehearsal"] is True
    assert content["versions"]["torch"] == torch.__version__
    assert {name: stage["ended"] for name, stage in content["stages"].items()} == dict.fromkeys(
        gpu.STAGES, ""
    )
    gates = content["stages"]["correct"]["found"]
    assert {row["operation"] for row in gates} >= {"gramian", "combine", "min_norm", "step"}
    assert all(stage["found"] for stage in content["stages"].values())
    swept = content["stages"]["sweep"]["found"]
    assert {row["kernel"] for row in swept} == {"pairs_kernel", "combine_kernel", "tiles_kernel"}
    assert all("p50" in row for row in swept)


@pytest.mark.usefixtures("needs_triton")
@pytest.mark.parametrize("stage", ["goals", "sweep"])
def test_a_red_operation_gets_no_time(stage: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", f"benchmarks.gpu.{stage}", "--rehearse", "--out", str(out)]
    done = subprocess.run(
        [*command, "--red", "gramian", "combine", "min_norm"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert "no time of" in done.stdout
    assert not [row for row in map(json.loads, out.read_text().splitlines()) if "p50" in row]


def test_red_operations_are_read_from_the_first_stage() -> None:
    rows = [("gramian", ""), ("gramian", "wrong"), ("combine", ""), ("step", "wrong")]
    found = [{"operation": operation, "gate": told} for operation, told in rows]
    assert gpu.red({"correct": {"found": found}}) == ["gramian", "step"]


def test_a_stage_that_takes_too_long_keeps_what_it_found(tmp_path: Path) -> None:
    assert gpu.staged("correct", tmp_path / "a", 0.0)["ended"] == "not run, the time is over"
    ended = gpu.staged("correct", tmp_path / "b", 0.05, "--rehearse")["ended"]
    assert ended == "stopped after 0 s"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(sys, "argv", ["x", "--rehearse", "--out", str(tmp_path / "out")])
    return Stage("a stage")


def test_a_gate_tells_what_the_form_tells_or_the_error_that_ends_it() -> None:
    def broken(device: torch.device) -> str:
        raise RuntimeError("PassManager::run failed")

    for probe, told in ((lambda device: "m = 3: wrong", "m = 3: wrong"), (broken, "PassManager")):
        assert told in correct.gate(types.SimpleNamespace(probe=probe), torch.device("cpu"))


@pytest.mark.parametrize("m", [1, 2, 3, 33])
@pytest.mark.parametrize("dtype", correct.DTYPES)
def test_public_functions_against_exact_sums(
    m: int, dtype: torch.dtype, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, combine = correct.gramian, correct.combine_
    assert correct.public_gramian(stage, m, dtype) == ""
    assert correct.public_combine(stage, m, dtype) == ""
    monkeypatch.setattr(correct, "gramian", lambda rows: 1.00001 * right(rows))
    monkeypatch.setattr(correct, "combine_", lambda rows, w: combine(rows, 1.02 * w))
    assert "inner product" in correct.public_gramian(stage, m, dtype)
    assert "are not rounded" in correct.public_combine(stage, m, dtype)


def test_the_sum_that_judges_the_large_goal_is_the_gramian(stage: Stage) -> None:
    rows = stage.rows(3, goals.TINY, torch.bfloat16)
    wide = correct.dense(rows)
    assert torch.allclose(goals.exact(rows), wide @ wide.T, rtol=1e-12)
    for shapes, size in ((goals.LLAMA, 8.03e9), (goals.LORA, 40e6)):
        assert sum(torch.Size(shape).numel() for shape in shapes) == pytest.approx(size, rel=0.02)


def test_a_goal_that_ends_in_an_error_is_missed(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise RuntimeError("called a synchronizing CUDA operation")

    goals.judged(stage, "planted", fails, 1.0)
    assert "planted: MISSED, called a synchronizing" in capsys.readouterr().out
    [row] = map(json.loads, stage.out.read_text().splitlines())
    assert "p50" not in row


def test_a_kernel_is_launched_with_other_constants() -> None:
    launches = []

    class Kernel:
        def __getitem__(self, grid: object) -> object:
            return lambda *given, **constants: launches.append((grid, given, constants))

    module = types.ModuleType("planted")
    module.kernel, module.PROGRAMS = Kernel(), 4  # type: ignore[attr-defined]
    with relaunched(module, "kernel", BLOCK=8, num_warps=2), constant(module, "PROGRAMS", 9):
        assert isinstance(module.kernel, Relaunched)
        module.kernel[(3,)]("a", BLOCK=4, M=1)
        assert module.PROGRAMS == 9
    module.kernel[(3,)]("a", BLOCK=4, M=1)
    assert module.PROGRAMS == 4
    assert launches == [
        ((3,), ("a",), {"BLOCK": 8, "M": 1, "num_warps": 2}),
        ((3,), ("a",), {"BLOCK": 4, "M": 1}),
    ]


@pytest.mark.parametrize(
    ("summary", "code", "told"),
    [
        ("ERROR SUMMARY: 0 errors", 0, ""),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, ""),
        ("ERROR SUMMARY: 3 errors", 0, "3 errors"),
        ("RACECHECK SUMMARY: 1 hazard displayed (1 error)", 0, "1 hazard"),
        ("ERROR SUMMARY: 0 errors", 1, "0 errors"),
        ("Device not supported", 1, "not known: "),
    ],
)
def test_what_a_sanitizer_says_is_read(
    summary: str, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of its name prints what the real one ends with."""
    program = tmp_path / "compute-sanitizer"
    program.write_text(f"#!/bin/sh\necho '========= {summary}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = sanitized.sanitized("memcheck", "cpu", 3)
    assert found.startswith(told) if told else found == ""
