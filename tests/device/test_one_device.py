"""Every method stays on its device: no value is read, nothing is sent, no two devices are mixed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as backends

from tests.device.tasks import METHODS
from tests.scalarizations.settings import FURTHER as FURTHER_SCALARIZATIONS
from tests.weightings.settings import FURTHER as FURTHER_WEIGHTINGS

ROOT = Path(__file__).parents[2]

VIOLATORS = {
    "reads a value": "DataDependentOutputException",
    "branches on a value": "DataDependentOutputException",
    "sends a list": "NotImplementedError",
    "indexes by a list": "NotImplementedError",
    "sends a tensor": "aten._to_copy.default on",
    "copies into a tensor": "aten.copy_.default on",
    "takes a scalar of the host": "aten.mul.Tensor on",
    "indexes by a tensor of the host": "aten.index.Tensor on",
    "copies to the host": "aten._to_copy.default on",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backends, "_setup_privateuseone_for_python_backend"),
        reason="this torch cannot register an accelerator in Python",
    ),
]


@pytest.fixture(scope="module")
def problems() -> dict[str, str | None]:
    command = [sys.executable, "-m", "tests.device.fake_accelerator"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", [*FURTHER_WEIGHTINGS, *FURTHER_SCALARIZATIONS])
def test_weights_are_made_on_the_device_alone(name: str, problems) -> None:
    assert problems[f"weigh {name}"] is None


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_stays_on_the_device(name: str, problems) -> None:
    assert problems[f"train {name}"] is None


@pytest.mark.parametrize("name", ["GradNorm", "GradVac", "MoCo", "MConFIG"])
def test_state_of_objectives_that_come_and_go_stays_on_the_device(name: str, problems) -> None:
    assert problems[f"gap {name}"] is None


@pytest.mark.parametrize("name", VIOLATORS)
def test_a_planted_violator_is_caught(name: str, problems) -> None:
    assert VIOLATORS[name] in problems[f"violator {name}"]
