"""A process with a fake accelerator: what does not stay on the device is an error there.

    python -m tests.device.fake_accelerator

prints, as JSON, the problem of every task by name, or null. Tensors of an accelerator that no build
of torch has are fake: reading a value raises, and so does data that is sent from Python; copies
from one device to another, and operations on tensors of two, are refused by `OneDevice`. In a
process of its own because an accelerator, once registered, is there for everything else.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import moopt
from moopt.weightings import Mean
from tests.device.tasks import METHODS, optimizer_on, tensors_of, train, weigh_on
from tests.scalarizations.settings import FURTHER as FURTHER_SCALARIZATIONS
from tests.weightings.settings import FURTHER as FURTHER_WEIGHTINGS
from tests.weightings.settings import fixed

FURTHER = FURTHER_WEIGHTINGS | FURTHER_SCALARIZATIONS
"""Settings beyond the registered examples, which train."""

HERE = Path(__file__).parents[2]


class OneDevice(TorchDispatchMode):
    """Refuses every operation whose tensors, operands or results, are on two devices."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{func} on {sorted(devices)}")
        return out


class Violator(Mean):
    """Breaks the rule in the way that `act` does with the weights."""

    def __init__(self, act: Callable[[Tensor], object]) -> None:
        object.__setattr__(self, "act", act)

    def __call__(self, statistics: moopt.StepStatistics, state: Any = None) -> Any:
        output = super().__call__(statistics, state)
        self.act(output.weights)  # type: ignore[attr-defined]
        return output


COME_AND_GO = ("GradNorm", "GradVac", "MoCo", "MConFIG")
"""State per objective, per pair of them, and rows: gathered and scattered as objectives go."""

VIOLATORS: dict[str, Callable[[Tensor], object]] = {
    "reads a value": lambda w: w[0].item(),
    "branches on a value": lambda w: 1 if w[0] > 0 else 2,
    "sends a list": lambda w: torch.tensor([1.0, 2.0, 3.0], device=w.device),
    "indexes by a list": lambda w: w[[0, 1]],
    "sends a tensor": lambda w: torch.ones(3).to(w.device),
    "copies into a tensor": lambda w: w.copy_(torch.ones(3, dtype=torch.float64)),
    "takes a scalar of the host": lambda w: w * torch.tensor(2.0),
    "indexes by a tensor of the host": lambda w: w[torch.arange(2)],
    "copies to the host": lambda w: w.cpu(),
}


def problem(task: Callable[[], object]) -> str | None:
    """What goes wrong in a task on the fake accelerator, and the line of it."""
    try:
        with FakeTensorMode(), OneDevice():
            task()
    except Exception as error:  # every one is a finding, reported by name
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if Path(f.filename).is_relative_to(HERE / "moopt")] or frames
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}, `{own[-1].line}`"
        return f"{type(error).__name__} at {where}: {str(error).splitlines()[0][:200]}"
    return None


def main() -> None:
    """Run every task."""
    _setup_privateuseone_for_python_backend("accel")
    device = torch.device("accel:0")

    def weigh(build: Any) -> None:
        strays = {t.device for t in tensors_of(weigh_on(device, build))} - {device}
        if strays:
            raise RuntimeError(f"results on {strays}")

    def step(name: str, absent: str | None = None) -> None:
        optimizer = optimizer_on(device, name, torch.float32)
        train(optimizer, range(2), absent=absent)
        if optimizer.record.weights.device != device:
            raise RuntimeError(f"the record is on {optimizer.record.weights.device}")

    tasks: dict[str, Callable[[], object]] = {
        **{f"violator {k}": lambda v=v: weigh(fixed(Violator(v))) for k, v in VIOLATORS.items()},
        **{f"weigh {name}": lambda build=build: weigh(build) for name, build in FURTHER.items()},
        **{f"train {name}": lambda name=name: step(name) for name in METHODS},
        **{f"gap {name}": lambda name=name: step(name, "retain") for name in COME_AND_GO},
    }
    warnings.simplefilter("ignore")  # a fake tensor has no address, which torch warns of
    json.dump({name: problem(task) for name, task in tasks.items()}, sys.stdout)


if __name__ == "__main__":
    main()
