"""Guards that hold across calls: nothing waits, adds up or counts where it should not."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch

import moopt
from tests.optimizer.problems import linear, sgd, two_losses


def test_a_skipped_step_whose_gradients_are_zeroed_in_place_goes_on():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = sgd([weight])
    scaler = torch.amp.GradScaler("cpu")
    for overflow in (1.0, math.inf, 1.0):
        if weight.grad is not None:
            weight.grad.zero_()  # as model.zero_grad(set_to_none=False) does
        losses = {
            "a": (weight - 1).sum() ** 2 * overflow + weight.sum(),
            "b": weight.square().sum(),
        }
        optimizer.backward(losses, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
    assert torch.isfinite(weight).all()


def test_a_direction_that_waits_is_still_refused_after_a_checkpoint_is_loaded():
    net, x = linear()
    optimizer = sgd(net.parameters())
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.backward(two_losses(net, x))
    optimizer.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="was not used"):
        optimizer.backward(two_losses(net, x))
    optimizer.zero_grad()
    optimizer.backward(two_losses(net, x))


def test_a_step_inside_a_block_is_refused():
    net, x = linear()
    optimizer = sgd(net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    with optimizer.objective("a"):
        two_losses(net, x)["a"].backward()
        with pytest.raises(RuntimeError, match=r"step\(\) was called inside objective\('a'\)"):
            optimizer.step()
    assert all(map(torch.equal, before, net.parameters()))


@pytest.mark.parametrize("first", [True, False])
def test_a_scaler_for_some_of_the_micro_batches_is_refused(first):
    net, x = linear()
    optimizer = sgd(net.parameters())
    scaler = torch.amp.GradScaler("cpu")
    some, others = (scaler, None) if first else (None, scaler)
    optimizer.backward(two_losses(net, x), accumulate=True, scaler=some)
    with pytest.raises(ValueError, match="must all have the scaler, or none of them"):
        optimizer.backward(two_losses(net, x), scaler=others)
    record = optimizer.backward(two_losses(net, x), scaler=some)  # nothing was lost
    expected = sgd(net.parameters())
    optimizer.zero_grad()
    twice = {name: 2 * loss for name, loss in two_losses(net, x).items()}
    torch.testing.assert_close(record.gramian, expected.backward(twice).gramian)


def test_another_optimizers_direction_at_the_same_parameters_is_refused():
    net, x = linear()
    one, other = sgd(net.parameters()), sgd(net.parameters())
    one.backward(two_losses(net, x))
    with pytest.raises(RuntimeError, match="another CommonDescent waits"):
        other.backward(two_losses(net, x))
    with pytest.raises(RuntimeError, match="another CommonDescent waits"), other.objective("a"):
        pass
    one.step()
    one.zero_grad()
    other.backward(two_losses(net, x))


def test_rounding_is_not_a_rise():
    """A gradient orthogonal to the direction, but for rounding, beside one that is raised."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        a, z, c = torch.randn(3, 50, generator=generator)
        b = z - 3 * a
        for _ in range(2):
            c = c - (c @ (a + b)) / ((a + b) @ (a + b)) * (a + b)
        weight = torch.nn.Parameter(torch.zeros(50))
        optimizer = sgd([weight], weighting=moopt.Constant([1.0, 1.0, 0.0]))
        record = optimizer.backward({"a": weight @ a, "b": weight @ b, "c": weight @ c})
        assert record.raised == ("a",)
        assert not record.descent


@pytest.mark.parametrize("weighting", ["crmogm", "moco", "sago"])
def test_a_step_that_is_not_finite_is_not_counted(weighting):
    net, x = linear()
    if weighting == "sago":
        weighting = moopt.aggregators.SAGO(forget="a", retain="b")
    optimizer = sgd(net.parameters(), weighting=weighting)
    counts = []
    for factor in (1.0, math.nan, 1.0):
        optimizer.zero_grad()
        optimizer.backward({n: loss * factor for n, loss in two_losses(net, x).items()})
        counts.append(optimizer.param_groups[0].get("moopt_step"))
    assert counts in ([1, 1, 2], [None] * 3)


def test_a_preference_of_zero_is_no_neglect():
    net, x = linear()
    method = moopt.scalarizations.STCH(preference={"small": 0.0, "large": 1.0}, mu=1.0)
    optimizer = sgd(net.parameters(), weighting=method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(25):
            optimizer.zero_grad()
            y = net(x).square().mean(dim=0)
            optimizer.backward({"small": y[0], "large": y[1]})
            optimizer.step()


@pytest.mark.parametrize("way", ["scheduler", "scaler", "closure"])
def test_a_warning_points_at_the_users_line(way):
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting="famo" if way == "closure" else None)
    if way == "scheduler":
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    scaler = torch.amp.GradScaler("cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            if way == "closure":
                optimizer.step(lambda: two_losses(net, x))
                continue
            net(x).sum().backward()
            if way == "scaler":
                scaler.scale(torch.ones(()))
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
    assert [one.filename for one in caught] == [__file__]
