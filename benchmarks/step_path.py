"""Which way does a step take through the files of the library?

    python -m benchmarks.step_path [--calls]

Three losses on three linear layers of width 32, from `backward` to the end of `step`. A call is one
of a function of the library (a comprehension or the resumption of a generator is not); a stay is a
maximal run of calls in one file; a return is a stay in a file that was left before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import ClassVar

import torch

import moopt
from benchmarks.report import format_table

FOLDER = str(Path(moopt.__file__).parent)
LIMITS = (18, 40, 25, 90)
STEPS: dict[str, str | None] = {
    "default": None,
    "a scalarization, STCH": "stch",
    "an entry-wise aggregator, GradDrop": "grad_drop",
    "moopt.backward": None,
}


def step_of(name: str) -> Callable[[], None]:
    """One step of its kind, warmed up."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(32, 32) for _ in range(3)]
    net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    x, targets = torch.randn(8, 32), torch.randn(3, 8, 32)
    base = torch.optim.SGD(net.parameters(), lr=1e-3)
    optimizer = moopt.CommonDescent(base, STEPS[name])

    def losses() -> dict[str, torch.Tensor]:
        out = net(x)
        return {
            key: (out - target).square().mean() for key, target in zip("abc", targets, strict=True)
        }

    def whole() -> None:
        optimizer.zero_grad()
        values = losses()
        with Recorded():
            optimizer.backward(values)
            optimizer.step()

    def functional() -> None:
        base.zero_grad()
        values = losses()
        with Recorded():
            moopt.backward(values, net.parameters())

    step = functional if name == "moopt.backward" else whole
    step()
    step()
    return step


class Recorded:
    """Records the calls into the library's files while the block runs."""

    calls: ClassVar[list[tuple[str, str]]] = []

    def __enter__(self) -> None:
        Recorded.calls = []
        self.entered: list[FrameType] = []  # kept alive, so that no identity is used twice
        self.known: set[int] = set()
        sys.setprofile(self._event)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(FOLDER):
            return
        resumed = id(frame) in self.known
        self.known.add(id(frame))
        self.entered.append(frame)
        if not resumed and not code.co_name.startswith("<"):
            Recorded.calls.append((code.co_filename[len(FOLDER) + 1 :], code.co_name))


def path_of(calls: list[tuple[str, str]]) -> tuple[int, int, int, int]:
    """Files, stays, returns and calls."""
    stays = [file for i, (file, _) in enumerate(calls) if i == 0 or calls[i - 1][0] != file]
    files = len(set(stays))
    return files, len(stays), len(stays) - files, len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_path", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no difference: it takes seconds")
    parser.add_argument("--calls", action="store_true", help="print every call")
    options = parser.parse_args()
    rows = []
    for name in STEPS:
        step_of(name)()
        rows.append([name, *path_of(Recorded.calls)])
        if options.calls:
            print(f"\n{name}")
            for file, function in Recorded.calls:
                print(f"   {file:44} {function}")
    print(format_table(["", "files", "stays", "returns", "calls"], rows))
    found = rows[0][1:]
    within = all(value <= limit for value, limit in zip(found, LIMITS, strict=True))
    print(f"   the default is to keep to {LIMITS}: {'met' if within else 'MISSED'}")
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
