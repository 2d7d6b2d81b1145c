"""What happens between two passes of one step: rows in waiting stay, or go with the gradients."""

from __future__ import annotations

import typing

import pytest
import torch

import moopt
from tests.optimizer.test_misuse import linear, sgd, two_losses


def regulariser(net):
    return 0.1 * sum(p.square().sum() for p in net.parameters())


def scaled(net, x, factor):
    return {name: loss * factor for name, loss in two_losses(net, x).items()}


def check_one_step_alone(net, x):
    """What lies in `.grad` is the direction of one step, and nothing else."""
    got = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    sgd(net.parameters()).backward(two_losses(net, x))
    for p, gradient in zip(net.parameters(), got, strict=True):
        torch.testing.assert_close(p.grad, gradient)


BETWEEN = {
    "nothing": lambda net: None,
    "clipping": lambda net: torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3),
    "a plain backward": lambda net: regulariser(net).backward(),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_micro_batches_survive_what_others_do_to_grad(between):
    net, x = linear()
    whole = sgd(net.parameters()).backward(two_losses(net, x))
    expected = [p.grad.clone() for p in net.parameters()]
    if between == "a plain backward":
        added = torch.autograd.grad(regulariser(net), list(net.parameters()))
        expected = [g + a for g, a in zip(expected, added, strict=True)]
    net.zero_grad()
    optimizer = sgd(net.parameters())
    optimizer.backward(scaled(net, x, 0.5), accumulate=True)
    BETWEEN[between](net)
    record = optimizer.backward(scaled(net, x, 0.5))
    assert record.names == whole.names
    for p, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_a_plain_backward_between_blocks_loses_no_block():
    net, x = linear()
    optimizer = sgd(net.parameters())
    for name in "ab":
        with optimizer.objective(name):
            two_losses(net, x)[name].backward()
        regulariser(net).backward()
    assert optimizer.combine_().names == ("a", "b")


@pytest.mark.parametrize("set_to_none", [True, False])
def test_clearing_the_model_clears_the_rows(set_to_none):
    net, x = linear()
    optimizer = sgd(net.parameters())
    optimizer.backward(scaled(net, x, 3.0), accumulate=True)
    net.zero_grad(set_to_none=set_to_none)
    optimizer.backward(two_losses(net, x))
    check_one_step_alone(net, x)


def test_clearing_after_a_refused_micro_batch_clears_the_rows_too():
    net, x = linear()
    optimizer = sgd(net.parameters())
    optimizer.backward(scaled(net, x, 3.0), accumulate=True)
    with pytest.raises(TypeError):
        optimizer.backward({"a": 3.0}, accumulate=True)
    net.zero_grad()
    optimizer.backward(two_losses(net, x))
    check_one_step_alone(net, x)


def test_two_optimizers_accumulate_side_by_side():
    net, x = linear()
    one, other = sgd(net.parameters()), sgd(net.parameters())
    one.backward(scaled(net, x, 0.5), accumulate=True)
    other.backward(scaled(net, x, 0.5), accumulate=True)
    one.backward(scaled(net, x, 0.5))
    one.zero_grad()
    other.backward(scaled(net, x, 0.5))
    check_one_step_alone(net, x)


def test_a_parameter_named_twice_counts_once():
    w = torch.nn.Parameter(torch.ones(2))
    moopt.backward({"a": w.sum(), "b": w.square().sum()}, [w, w], "sum")
    torch.testing.assert_close(w.grad, torch.full((2,), 3.0))


def block(optimizer, stray, loss):
    with optimizer.objective("b"):
        stray.backward()


LATER = {
    "backward": lambda optimizer, stray, loss: optimizer.backward({"a": loss, "b": stray}),
    "block": block,
}


@pytest.mark.parametrize("way", LATER)
def test_a_later_micro_batch_must_reach_a_parameter_too(way):
    net, x = linear()
    other, _ = linear()
    optimizer = sgd(net.parameters())
    optimizer.backward(two_losses(net, x), accumulate=True)
    stray, loss = other(x).square().mean(), two_losses(net, x)["a"]
    with pytest.raises((ValueError, RuntimeError), match=r"reaches no param|no gradient arrived"):
        LATER[way](optimizer, stray, loss)


def test_a_functional_step_that_combines_is_typed_as_a_record():
    assert len(typing.get_overloads(moopt.backward)) == 2
