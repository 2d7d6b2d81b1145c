"""Which weighting should be the default? Two regressions with a shared trunk.

    python -m benchmarks.two_task_regression

Two related targets of one input, one of them on a scale `RATIO` times larger, so that its loss is
`RATIO ** 2` times larger; noisy training labels, a trunk too small to fit both freely, and a head
each. For every weighting: Adam, one learning rate per method chosen on validation data from a grid
of the same size, five seeds. The figure is the mean over tasks of the test error relative to a
network of the same size trained on that task alone: 0 % is as good as two networks.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import moopt

LEARNING_RATES = (1e-2, 3e-2, 1e-1)
SEEDS = 5
STEPS = 250
BATCH = 64
RATIO = 10.0

WEIGHTINGS: dict[str, Callable[[], moopt.weightings.Weighting]] = {
    "Sum": lambda: moopt.Sum(),
    "MGDA none": lambda: moopt.MGDA(normalize="none"),
    "MGDA l2": lambda: moopt.MGDA(normalize="l2"),
    "MGDA loss": lambda: moopt.MGDA(normalize="loss"),
    "MGDA loss+": lambda: moopt.MGDA(normalize="loss+"),
    "DualSpaceMGDA dual_basis": lambda: moopt.DualSpaceMGDA(variant="dual_basis"),
    "DualSpaceMGDA unit_dual": lambda: moopt.DualSpaceMGDA(variant="unit_dual"),
    "DualSpaceMGDA projected": lambda: moopt.DualSpaceMGDA(variant="projected"),
}


class Regression(nn.Module):
    """A shared trunk and a linear head per task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(12, 1), nn.Linear(12, 1)])

    def errors(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Mean squared error per task; `y` is `[B, 2]`."""
        hidden = self.trunk(x)
        return {
            f"task{i}": (head(hidden)[:, 0] - y[:, i]).square().mean()
            for i, head in enumerate(self.heads)
        }


def data(seed: int, size: int, noise: float) -> tuple[Tensor, Tensor]:
    """Inputs `[size, 8]` and two targets that share some features and compete for others."""
    generator = torch.Generator().manual_seed(1234)
    mix = torch.randn(8, 6, generator=generator)
    generator.manual_seed(seed)
    x = torch.randn(size, 8, generator=generator)
    features = torch.sin(x @ mix / 2)
    first = features[:, :4].sum(1)
    second = RATIO * (features[:, 2:4].sum(1) - features[:, 4:].sum(1))
    scale = torch.tensor([noise, noise * RATIO])
    targets = torch.stack([first, second], 1)
    return x, targets + scale * torch.randn(size, 2, generator=generator)


def train(seed: int, lr: float, tasks: tuple[int, ...], make: Callable) -> dict[str, list[float]]:
    """Train on `tasks`; returns validation and test errors per task."""
    torch.manual_seed(seed)
    model = Regression()
    optimizer = moopt.CommonDescent(torch.optim.Adam(model.parameters(), lr=lr), make())
    x, y = data(seed * 10 + 1, 2000, noise=0.3)
    order = torch.Generator().manual_seed(seed)
    names = [f"task{i}" for i in tasks]
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=order)
        optimizer.zero_grad()
        errors = model.errors(x[rows], y[rows])
        optimizer.backward({name: errors[name] for name in names})
        optimizer.step()
    out = {}
    with torch.no_grad():
        for split, offset in (("validation", 2), ("test", 3)):
            errors = model.errors(*data(seed * 10 + offset, 2000, noise=0.0))
            out[split] = [errors[name].item() for name in names]
    return out


def relative(errors: list[float], alone: list[float]) -> float:
    """Mean over tasks of the error relative to the single-task network, minus one."""
    return statistics.mean(e / a for e, a in zip(errors, alone, strict=True)) - 1


def measure() -> dict[str, dict[str, object]]:
    """Every weighting on every seed, at the learning rate that validates best."""
    alone: dict[int, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        best = []
        for task in (0, 1):
            runs = [train(seed, lr, (task,), moopt.Sum) for lr in LEARNING_RATES]
            best.append(min(runs, key=lambda run: run["validation"][0]))
        alone[seed] = {s: [run[s][0] for run in best] for s in ("validation", "test")}
    results: dict[str, dict[str, object]] = {}
    for name, make in WEIGHTINGS.items():
        runs = {
            lr: [train(seed, lr, (0, 1), make) for seed in range(SEEDS)] for lr in LEARNING_RATES
        }
        score = {
            lr: [relative(run["validation"], alone[s]["validation"]) for s, run in enumerate(of)]
            for lr, of in runs.items()
        }
        lr = min(score, key=lambda key: statistics.mean(score[key]))
        test = [relative(run["test"], alone[s]["test"]) for s, run in enumerate(runs[lr])]
        worst = [
            max(e / a for e, a in zip(run["test"], alone[s]["test"], strict=True)) - 1
            for s, run in enumerate(runs[lr])
        ]
        results[name] = {"lr": lr, "mean": test, "worst_task": worst}
    return results


def main() -> None:
    """Print the table; `--json PATH` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure()
    print(f"test error above single-task networks, {SEEDS} seeds: mean of tasks, worse task")
    for name, row in sorted(results.items(), key=lambda item: statistics.mean(item[1]["mean"])):
        mean, worst = (100 * statistics.mean(row[key]) for key in ("mean", "worst_task"))
        spread = 100 * statistics.stdev(row["mean"])
        print(f"  {name:26} {mean:8.1f} % (sd {spread:6.1f}) {worst:8.1f} %   lr {row['lr']:g}")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
