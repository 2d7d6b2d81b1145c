"""`skip_non_finite` in every way in: scalarizations, closures, and `observe` afterwards."""

from __future__ import annotations

import pytest
import torch

import moopt
from moopt.scalarizations import SCALARIZATIONS
from tests.optimizer.test_misuse import linear, sgd, two_losses

FEW = [name for name, row in SCALARIZATIONS.items() if not row.required]


def with_bad(net, x):
    losses = two_losses(net, x)
    return losses | {"bad": losses["a"] * float("nan")}


@pytest.mark.parametrize("weighting", FEW)
def test_a_scalarization_leaves_out_what_is_not_finite(weighting):
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting=weighting, skip_non_finite=True)
    record = optimizer.backward(with_bad(net, x))
    assert record.left_out == ("bad",)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.LBFGS])
def test_a_closure_leaves_it_out_in_every_evaluation(base):
    net, x = linear()
    optimizer = moopt.CommonDescent(base(net.parameters(), lr=0.1), skip_non_finite=True)
    value = optimizer.step(lambda: with_bad(net, x))
    assert bool(torch.isfinite(value))
    assert all(p.isfinite().all() for p in net.parameters())


def test_observe_takes_the_losses_of_the_whole_batch():
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting="famo", skip_non_finite=True)
    optimizer.backward(with_bad(net, x))
    optimizer.step()
    optimizer.observe(with_bad(net, x))
    record = optimizer.backward(two_losses(net, x))
    assert record.weights.isfinite().all()
