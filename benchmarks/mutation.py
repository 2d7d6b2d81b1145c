"""Would the tests notice? cosmic-ray's mutants of chosen modules, or a random sample of them.

    python -m benchmarks.mutation moopt/solvers/simplex.py --sample 20

Writes a configuration of cosmic-ray for each module, runs `cosmic-ray init` and `exec` on a copy of
the sources, which it changes in place, and prints every mutant that survived. The tests of a module
are those named after it, or all of its folder. `docs/mutation_survivors.json` has the survivors of
an earlier revision with the reason of each. Needs the extra `mutation`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("moopt/solvers", "moopt/weightings")
# Three need a choice of names; `|` stands in annotations, which are not evaluated.
SKIPPED = (
    "core/ExceptionReplacer",
    "core/VariableReplacer",
    "core/VariableInserter",
    "core/ReplaceBinaryOperator_BitOr_.*",
)
CONFIGURATION = """
[cosmic-ray]
module-path = "{module}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider {tests}"

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = {skipped}
"""


def every_module() -> list[str]:
    """The files that are mutated if none is named."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return [str(path.relative_to(ROOT)) for path in files if path.stem != "__init__"]


def tests_of(module: str) -> str:
    """The tests of a module: the file named after it, or the folder of its package."""
    path = Path("tests", *Path(module).parts[1:])
    named = path.with_name(f"test_{path.name}")
    return str(named if (ROOT / named).exists() else path.parent)


def copied(folder: Path) -> Path:
    """A copy of what the tests need, in `folder`."""
    root = folder / "sources"
    root.mkdir()
    for name in ("conftest.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)
    for name in ("moopt", "tests", "docs", "benchmarks"):
        hidden = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / name, root / name, ignore=hidden)
    return root


def survivors(module: str, root: Path, options: argparse.Namespace) -> Counter[str]:
    """Run a sample of a module's mutants, print those that survive, and count the outcomes."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    tests = options.tests or tests_of(module)
    settings = root.parent / "settings.toml"
    settings.write_text(
        CONFIGURATION.format(
            module=module,
            timeout=options.timeout,
            python=sys.executable,
            tests=tests,
            skipped=list(SKIPPED),
        )
    )
    session = root.parent / "session.sqlite"
    session.unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> None:
        subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)

    folder = Path(sys.executable).parent
    run(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split())
    run(f"{folder}/cosmic-ray", "init", str(settings), str(session))
    run(f"{folder}/cr-filter-operators", str(session), str(settings))
    with use_db(session, WorkDB.Mode.open) as database:
        items = sorted(database.pending_work_items, key=lambda item: repr(item.mutations))
        waiting = [item.job_id for item in items]
        size = min(options.sample, len(waiting))
        drawn = set(random.Random(options.seed).sample(waiting, size))
        for job in sorted(set(waiting) - drawn):
            database.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))
    print(f"\n{module}: {len(drawn)} of {len(waiting)} mutants, by {tests}", flush=True)
    run(f"{folder}/cosmic-ray", "exec", str(settings), str(session))
    outcomes: Counter[str] = Counter()
    with use_db(session, WorkDB.Mode.open) as database:
        for job, result in database.results:
            if job in drawn:
                outcome = result.test_outcome or result.worker_outcome
                outcomes[outcome.value] += 1
                if outcome.value == "survived":
                    print(result.diff, flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"files; by default all of {FOLDERS}")
    parser.add_argument("--sample", type=int, default=20, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one mutant")
    parser.add_argument("--tests", help="what pytest runs, in place of the tests of the module")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        for module in options.modules or every_module():
            outcomes = survivors(module, root, options)
            print(f"   {dict(outcomes)}", flush=True)
            total += outcomes
    print(f"\n{total['survived']} of {sum(total.values())} mutants survived")


if __name__ == "__main__":
    main()
