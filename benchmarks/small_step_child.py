"""One measurement of `benchmarks.small_step`, in a process of its own; prints JSON.

    python small_step_child.py LIBRARY METHOD M

It imports nothing of this folder, so that it also runs on an earlier revision of the library,
whose root is then first in PYTHONPATH.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

WIDTH, BATCH, LAYERS = 32, 8, 3
STEPS, WARM_UP = 150, 30


def network() -> torch.nn.Module:
    layers: list[torch.nn.Module] = []
    for _ in range(LAYERS):
        layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def main(library: str, method: str, m: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = network()
    parameters = list(net.parameters())
    x, targets = torch.randn(BATCH, WIDTH), torch.randn(m, BATCH, WIDTH)
    base = torch.optim.SGD(parameters, lr=1e-3)

    def losses() -> list[Tensor]:
        out = net(x)
        return [(out - target).square().mean() for target in targets]

    def plain() -> None:
        values = losses()
        for i, loss in enumerate(values):
            for p in parameters:
                p.grad = None
            loss.backward(retain_graph=i < m - 1)
        base.step()

    full = torchjd_step(losses, base, method) if library == "torchjd" else None
    full = moopt_step(losses, base, method) if full is None else full
    times: dict[str, list[float]] = {"plain": [], "full": []}
    for k in range(STEPS + WARM_UP):
        for name, run in (("plain", plain), ("full", full)):
            start = time.perf_counter()
            run()
            if k >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    print(json.dumps({name: statistics.median(values) for name, values in times.items()}))


def moopt_step(
    losses: Callable[[], list[Tensor]], base: torch.optim.Optimizer, method: str
) -> Callable[[], None]:
    import moopt

    optimizer = moopt.CommonDescent(base, None if method == "default" else method)

    def step() -> None:
        optimizer.zero_grad()
        optimizer.backward(losses())
        optimizer.step()

    return step


def torchjd_step(
    losses: Callable[[], list[Tensor]], base: torch.optim.Optimizer, method: str
) -> Callable[[], None]:
    from torchjd import aggregation
    from torchjd.autojac import backward, jac_to_grad

    parameters = [p for group in base.param_groups for p in group["params"]]
    aggregator = {"default": aggregation.MGDA, "upgrad": aggregation.UPGrad}[method]()

    def step() -> None:
        base.zero_grad()
        backward(losses(), inputs=parameters)
        jac_to_grad(parameters, aggregator)
        base.step()

    return step


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
