"""The rule of each tracking aggregator by hand, on the whole Jacobian at once."""

from __future__ import annotations

import pytest
import torch

import moopt
from moopt.aggregators import DBMTLWithEMA, ExcessMTL, MoCo
from tests.aggregators.tracking import METHODS, RTOL, flat_gradient, make, train
from tests.optimizer.problems import batch, jacobian


def projected(v):
    return moopt.solvers.simplex_projection(v)


def moco(history, losses):
    y, w = torch.zeros_like(history[0]), torch.full((3,), 1 / 3, dtype=torch.float64)
    for k, g in enumerate(history, 1):
        y = y - 0.5 / k**0.5 * (y - g)
        w = projected(w - 0.1 / k**0.5 * (y @ y.T @ w))
    return y.T @ w


def moco_of_its_code(history, losses):
    y, w = torch.zeros_like(history[0]), torch.full((3,), 1 / 3, dtype=torch.float64)
    for k, (g, values) in enumerate(zip(history, losses, strict=True), 1):
        g = g / g.norm(dim=1, keepdim=True) * values[:, None]
        y = y - 0.5 / k**0.5 * (y - g)
        w = projected(w)  # already on the simplex
        w = torch.softmax(w - 0.1 / k**0.5 * (y @ y.T @ w + 0.1 * w), -1)
    return y.T @ w


def db_mtl(history, losses):
    h = torch.zeros_like(history[0])
    for k, (g, values) in enumerate(zip(history, losses, strict=True), 1):
        beta = 0.9 / k**0.5
        h = beta * h + (1 - beta) * g / values[:, None]
    norms = h.norm(dim=1)
    return ((norms.max() / norms)[:, None] * h).sum(0)


def excess_mtl(history, losses):
    total, w, first = torch.zeros_like(history[0]), torch.ones(3, dtype=torch.float64), None
    for g in history:
        total = total + g**2
        excess = (g**2 / total.sqrt().clamp_min(1e-300)).sum(1)
        first = excess if first is None else first
        w = w * torch.exp(0.5 * excess / first)
        w = w / w.sum()
    return history[-1].T @ w


def averaged(history, losses):
    y, w = history[0], None
    for k, g in enumerate(history):
        y = 0.7 * y + 0.3 * g if k else g
        new = moopt.MGDA(normalize="l2")(moopt.StepStatistics(gramian=y @ y.T)).weights
        w = new if w is None else 0.5 * w + 0.5 * new
    return y.T @ w


def m_config(history, losses):
    m = torch.zeros_like(history[0])
    for k, g in enumerate(history, 1):
        m = 0.6 * m + 0.4 * g
        corrected = m / (1 - 0.6**k)
    unit = corrected / corrected.norm(dim=1, keepdim=True)
    u = torch.linalg.pinv(unit) @ torch.ones(len(m), dtype=m.dtype)
    u = u / u.norm()
    return (corrected @ u).sum() * u


ORACLES = (moco, moco_of_its_code, db_mtl, excess_mtl, averaged, m_config)
RULES = dict(zip(METHODS, ORACLES, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_follow_the_rule(name):
    model, optimizer = make(METHODS[name])
    history, losses = [], []
    for step in range(3):
        optimizer.zero_grad()
        values = model.losses(batch(step, dtype=torch.float64))
        history.append(jacobian(values, list(model.parameters())))
        losses.append(torch.stack([v.detach() for v in values.values()]))
        record = optimizer.backward(values)
        expected = RULES[name](history, losses)
        torch.testing.assert_close(flat_gradient(model), expected, rtol=RTOL, atol=1e-12)
        torch.testing.assert_close(record.slopes, -history[-1] @ expected, rtol=RTOL, atol=1e-12)
        optimizer.step()
    rules = [RULES[other](history, losses) for other in METHODS if other != name]
    assert all(float((expected - other).norm()) > 1e-3 * float(other.norm()) for other in rules)


def test_the_average_of_moco_settles_where_the_noise_is_gone():
    """A constant gradient plus noise: y comes close to the constant, one batch does not."""
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MoCo(beta=1.0, beta_decay=0.5))
    mean = torch.stack([torch.ones(50), torch.linspace(-1, 1, 50)]).double()
    for _ in range(400):
        noisy = mean + torch.randn(2, 50, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        optimizer.backward({"a": noisy[0] @ w, "b": noisy[1] @ w})
        optimizer.step()
    average = optimizer.param_groups[0]["moopt_rows_average_0"]
    assert float((average - mean).norm() / mean.norm()) < 0.35
    assert float((noisy - mean).norm() / mean.norm()) > 0.9


def test_beta_zero_is_the_weighting_without_an_average():
    plain, reference = make(moopt.weightings.DBMTL())
    model, optimizer = make(DBMTLWithEMA(beta=0.0))
    for step in range(3):
        for m, o in ((plain, reference), (model, optimizer)):
            train(m, o, [step])
        torch.testing.assert_close(flat_gradient(model), flat_gradient(plain), rtol=RTOL, atol=0)


def test_excess_mtl_grows_as_torchjds_does_from_its_second_step_on():
    """Its first step takes the estimates undivided, so that a larger gradient weighs more."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer = aggregation.ExcessMTLWeighting(robust_step_size=0.5)
    parameter = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
    method = ExcessMTL(step_size=0.5)
    optimizer = moopt.CommonDescent(torch.optim.SGD([parameter], lr=0.0), method)
    ours, theirs = [], []
    for step in range(4):
        rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(step)).double()
        rows *= torch.tensor([[1.0], [2.0], [0.5]])
        optimizer.zero_grad()
        record = optimizer.backward({f"loss {i}": row @ parameter for i, row in enumerate(rows)})
        optimizer.step()
        ours.append(record.weights.log())
        theirs.append(peer(rows).log())
    assert not torch.allclose(ours[0], theirs[0], atol=0.1)
    for step in range(1, 4):
        growth = [logs[step] - logs[step - 1] for logs in (ours, theirs)]
        torch.testing.assert_close(*(g - g.mean() for g in growth), rtol=1e-5, atol=1e-5)
