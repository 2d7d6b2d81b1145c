"""The whole GPU set without a card, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu

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
