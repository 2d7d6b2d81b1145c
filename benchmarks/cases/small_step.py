"""Cases where Python and small calls are the cost: a step on three linear layers of width 32.

Batch 8, SGD. A step is the forward pass, differentiation, weights and the SGD step, less the same
with m plain backward passes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import moopt
from benchmarks import peer
from benchmarks.registry import Case, Goal, Inputs, Setting, Way

WIDTH, BATCH, LAYERS = 32, 8, 3
SIZES = (3, 8, 32)
METHODS = {"default": None, "UPGrad": "upgrad"}
PEERS = {"default": "MGDA", "UPGrad": "UPGrad"}
GOALS = {3: 0.75, 8: 1.0, 32: 1.0}
"""UPGrad's overhead in TorchJD's."""
DESCENT_TOL = 1e-5


class SmallStep:
    """A network, its losses, and one step in one of several ways."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(setting.seed)
        layers: list[torch.nn.Module] = []
        for _ in range(LAYERS):
            layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()]
        self.net = torch.nn.Sequential(*layers[:-1])
        self.parameters = list(self.net.parameters())
        self.x, self.targets = torch.randn(BATCH, WIDTH), torch.randn(setting.m, BATCH, WIDTH)
        self.base = torch.optim.SGD(self.parameters, lr=1e-12)  # every call sees one function

    def losses(self) -> list[Tensor]:
        out = self.net(self.x)
        return [(out - target).square().mean() for target in self.targets]

    def plain(self) -> None:
        values = self.losses()
        for i, loss in enumerate(values):
            self.base.zero_grad()
            loss.backward(retain_graph=i < len(values) - 1)
        self.base.step()

    def ours(self, method: str | None) -> Callable[[], None]:
        optimizer = moopt.CommonDescent(self.base, method)

        def step() -> None:
            optimizer.zero_grad()
            optimizer.backward(self.losses())
            optimizer.step()

        return step

    def theirs(self, name: str) -> Callable[[], None]:
        aggregator = peer.aggregator(name)

        def step() -> None:
            self.base.zero_grad()
            peer.backward(self.losses(), self.parameters, aggregator)
            self.base.step()

        return step

    def gate(self, step: Callable[[], None]) -> str:
        """What is wrong with the direction that a step leaves: both methods promise descent."""
        rows = []
        for loss in self.losses():
            grads = torch.autograd.grad(loss, self.parameters, retain_graph=True)
            rows.append(torch.cat([g.double().flatten() for g in grads]))
        step()
        direction = torch.cat([p.grad.double().flatten() for p in self.parameters])
        jacobian = torch.stack(rows)
        lowest = (jacobian @ direction / (jacobian.norm(dim=1) * direction.norm())).min()
        told = f"the direction raises a loss: cosine {float(lowest):.1e}"
        return "" if lowest >= -DESCENT_TOL else told


def small_step(setting: Setting) -> Inputs:
    step = SmallStep(setting)
    ways = {"plain": Way(step.plain)}
    for label, method in METHODS.items():
        call = step.ours(method)
        ways[f"moopt, {label}"] = Way(call, functools.partial(step.gate, call), ours=True)
        if peer.version():
            theirs = step.theirs(PEERS[label])
            name = f"TorchJD, {PEERS[label]}"
            ways[name] = Way(theirs, functools.partial(step.gate, theirs))
    missing = {} if peer.version() else {"TorchJD": peer.MISSING}
    return Inputs(ways, base="plain", missing=missing)


def cases(device: torch.device) -> Iterator[Case]:
    if device.type == "cpu":
        for m in SIZES:
            setting = Setting(m, [(WIDTH, WIDTH), (WIDTH,)] * LAYERS, torch.float32, device)
            goals = [Goal("moopt, UPGrad", "TorchJD, UPGrad", GOALS[m])]
            yield Case(f"small_step, m = {m}", "small_step", setting, small_step, 0, goals)
