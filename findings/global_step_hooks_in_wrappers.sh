#!/usr/bin/env bash
# Global optimizer hooks, and optimizers that wrap another.
#
# Guess: a hook registered with `torch.optim.optimizer.register_optimizer_step_post_hook` (a profiler,
# a counter of steps, a logger of gradient norms) runs once for each `step()` of the training loop.
#
# Seen with torch 2.13.0, pytorch_optimizer 4.1.0, accelerate 1.15.0, schedulefree 1.4.1: torch wraps
# `step` of every class whose `Optimizer.__init__` runs, or whose instance is restored, so a wrapper
# that is an Optimizer and calls the inner `step` runs the hooks twice: pytorch_optimizer's Lookahead,
# OrthoGrad and ScheduleFreeWrapper. accelerate's AcceleratedOptimizer never calls
# `Optimizer.__init__`, and schedulefree's wrapper is no Optimizer (an LR scheduler refuses it): once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy pytorch_optimizer==4.1.0 accelerate==1.15.0 schedulefree==1.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import pytorch_optimizer
import schedulefree
import torch
from accelerate import Accelerator
from torch.optim.optimizer import register_optimizer_step_post_hook

warnings.simplefilter("ignore")
WRAPPERS = {
    "none": (lambda inner: inner, ["SGD"]),
    "pytorch_optimizer.Lookahead": (pytorch_optimizer.Lookahead, ["SGD", "Lookahead"]),
    "pytorch_optimizer.OrthoGrad": (pytorch_optimizer.OrthoGrad, ["SGD", "OrthoGrad"]),
    "pytorch_optimizer.ScheduleFreeWrapper": (
        pytorch_optimizer.ScheduleFreeWrapper,
        ["SGD", "ScheduleFreeWrapper"],
    ),
    "accelerate.AcceleratedOptimizer": (Accelerator(cpu=True).prepare, ["SGD"]),
    "schedulefree.ScheduleFreeWrapper": (
        lambda inner: schedulefree.ScheduleFreeWrapper(inner, momentum=0.9),
        ["SGD"],
    ),
}
calls = []
register_optimizer_step_post_hook(lambda optimizer, *_: calls.append(type(optimizer).__name__))
changed = 0
for name, (wrap, seen) in WRAPPERS.items():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = wrap(torch.optim.SGD([parameter], lr=0.1))
    if hasattr(optimizer, "train"):
        optimizer.train()
    parameter.grad = torch.ones(3)
    calls.clear()
    optimizer.step()
    changed += calls != seen
    print(f"{name:38} one step() ran the hook for {calls}", "" if calls == seen else "  CHANGED")
raise SystemExit(f"{changed} of {len(WRAPPERS)} lines changed" if changed else 0)
PYTHON
