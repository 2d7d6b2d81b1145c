"""The registered cases on the card: the same registry and runner as on the host."""

from __future__ import annotations

import sys

from benchmarks import run
from benchmarks.gpu.stage import Stage


def main() -> int:
    stage = Stage(__doc__)
    known, green = run.conditions(stage.device), True
    only = "combine, LoRA" if stage.rehearse else ""
    cases = run.chosen(stage.device, only, quick=stage.rehearse)
    for records, passed in run.run(cases, known, quick=stage.rehearse):
        green = green and passed
        for record in records:
            stage.add(**record)
    return 0 if green else 1


if __name__ == "__main__":
    sys.exit(main())
