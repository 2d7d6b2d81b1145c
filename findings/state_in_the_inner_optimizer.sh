#!/usr/bin/env bash
# A wrapper that keeps its own state in the wrapped optimizer's `state[p]`.
#
# Guess: schedulefree's ScheduleFreeWrapper "wraps any optimizer", so it steps with each of torch's.
#
# Seen with schedulefree 1.4.1 and torch 2.13.0: the first step() raises KeyError ('exp_avg',
# 'square_avg', 'prev', 'mu', 'step') with Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adadelta, Rprop,
# ASGD and Adafactor: the wrapper puts its `z` into `state[p]` first, and torch initialises a
# parameter's state only where `len(state[p]) == 0`. It steps with SGD, Adagrad (which initialises in
# its constructor) and Muon (which looks its key up). pytorch_optimizer's wrapper of the same name
# (4.1.0), which has a state of its own, steps with all thirteen. Whoever wraps an optimizer must
# keep `state[p]` for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy pytorch_optimizer==4.1.0 schedulefree==1.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import pytorch_optimizer
import schedulefree
import torch

warnings.simplefilter("ignore")
SEEN = {
    "SGD": None,
    "Adagrad": None,
    "Muon": None,
    "Adam": "exp_avg",
    "AdamW": "exp_avg",
    "NAdam": "exp_avg",
    "RAdam": "exp_avg",
    "Adamax": "exp_avg",
    "RMSprop": "square_avg",
    "Adadelta": "square_avg",
    "Rprop": "prev",
    "ASGD": "mu",
    "Adafactor": "step",
}


def missing_key(wrap, name):
    """The key that the first three steps miss, or None where they run."""
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = wrap(getattr(torch.optim, name)([parameter], lr=0.1))
    optimizer.train()
    for _ in range(3):
        parameter.grad = torch.ones(2, 2)
        try:
            optimizer.step()
        except KeyError as error:
            return error.args[0]
    return None


changed = 0
for name, seen in SEEN.items():
    first = missing_key(lambda inner: schedulefree.ScheduleFreeWrapper(inner, momentum=0.9), name)
    second = missing_key(pytorch_optimizer.ScheduleFreeWrapper, name)
    as_seen = (first, second) == (seen, None)
    changed += not as_seen
    print(f"{name:10} schedulefree: {first or 'steps':11} pytorch_optimizer: {second or 'steps'}",
          "" if as_seen else "  CHANGED")
raise SystemExit(f"{changed} of {len(SEEN)} lines changed" if changed else 0)
PYTHON
