"""What the tests of tracking aggregators run, and how."""

from __future__ import annotations

import torch

import moopt
from moopt.aggregators import DBMTLWithEMA, ExcessMTL, GradientEMA, MConFIG, MoCo
from tests.optimizer.problems import OneOutput, batch, seeded

RTOL = 1e-9  # float64 against the same few operations in another order

METHODS = {
    "MoCo": MoCo(),
    "MoCo as in its code": MoCo(normalize="loss", simplex="softmax", regularization=0.1),
    "DBMTLWithEMA": DBMTLWithEMA(beta_decay=0.5),
    "ExcessMTL": ExcessMTL(step_size=0.5),
    "GradientEMA": GradientEMA(moopt.CRMOGM(moopt.MGDA(normalize="l2"), momentum=0.5), beta=0.7),
    "MConFIG": MConFIG(beta=0.6),
}

OF_THE_STEP = [name for name, method in METHODS.items() if not method.combines_absent]
"""The rows of absent objectives have no say; for the others see test_m_config.py."""


def make(method, cls=OneOutput, dtype=torch.float64, base=torch.optim.SGD, **options):
    model = seeded(cls, dtype=dtype)
    return model, moopt.CommonDescent(base(model.parameters(), lr=0.05), method, **options)


def train(model, optimizer, steps, names=None):
    dtype = next(model.parameters()).dtype
    for step in steps:
        optimizer.zero_grad()
        losses = model.losses(batch(step, dtype=dtype))
        optimizer.backward({n: losses[n] for n in names or losses})
        optimizer.step()


def flat_gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])
