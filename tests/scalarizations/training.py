"""Small trainings with a scalarization."""

from __future__ import annotations

import torch

import moopt
from moopt.scalarizations import STCH
from tests.optimizer.problems import OneOutput, batch, seeded

STEPS = 4


def make(cls=OneOutput, weighting=None, base=torch.optim.SGD, dtype=torch.float32, **options):
    model = seeded(cls, dtype=dtype)
    inner = base(model.parameters(), lr=0.05)
    return model, moopt.CommonDescent(inner, weighting or STCH(), **options)


def train(model, optimizer, steps=STEPS, start=0, dtype=torch.float32):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch(step, dtype=dtype)))
        optimizer.step()
        if optimizer.weighting.observes:
            with torch.no_grad():
                optimizer.observe(model.losses(batch(step, dtype=dtype)))
