"""fused=True: whatever would be wrong in silence is refused, and what is not goes on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import moopt
from tests.optimizer.fused import (
    BASES,
    F64,
    FLOAT64,
    SGD,
    Adam,
    AdamW,
    backward,
    difference,
    trained,
    waiting,
)
from tests.optimizer.problems import TwoHeads, batch, parameters_of, seeded

USES: dict[str, Callable[[nn.Module, Any], object]] = {
    "clip_grad_norm_": lambda m, o: nn.utils.clip_grad_norm_(m.parameters(), 1.0),
    "clip_grad_norm_ one by one": lambda m, o: nn.utils.clip_grad_norm_(
        m.parameters(), 1.0, foreach=False
    ),
    "clip_grad_value_": lambda m, o: nn.utils.clip_grad_value_(m.parameters(), 1.0),
    "get_total_norm": lambda m, o: nn.utils.get_total_norm([p.grad for p in m.parameters()]),
    "a logged norm": lambda m, o: float(next(m.parameters()).grad.norm()),
    "an entry": lambda m, o: next(m.parameters()).grad[0, 0].item(),
    "a number": lambda m, o: next(m.parameters()).grad.tolist(),
    "numpy": lambda m, o: next(m.parameters()).grad.numpy(),
    "data": lambda m, o: next(m.parameters()).grad.data,
    "detach": lambda m, o: next(m.parameters()).grad.detach(),
    "clone": lambda m, o: next(m.parameters()).grad.clone(),
    "data_ptr": lambda m, o: next(m.parameters()).grad.data_ptr(),
    "untyped_storage": lambda m, o: next(m.parameters()).grad.untyped_storage(),
    "dlpack": lambda m, o: torch.from_dlpack(next(m.parameters()).grad),
    "share_memory_": lambda m, o: next(m.parameters()).grad.share_memory_(),
    "deepcopy": lambda m, o: copy.deepcopy(next(m.parameters()).grad),
    "pickle": lambda m, o: pickle.dumps(next(m.parameters()).grad),
    "isnan": lambda m, o: torch.isnan(next(m.parameters()).grad).any(),
    "scaling in place": lambda m, o: next(m.parameters()).grad.mul_(0.5),
    "an operator": lambda m, o: next(m.parameters()).grad * 2,
    "out=": lambda m, o: torch.zeros(5, 3, dtype=F64, out=next(m.parameters()).grad),
    "copied into": lambda m, o: torch.zeros(5, 3, dtype=F64).copy_(next(m.parameters()).grad),
    "another backward pass": lambda m, o: sum(m.losses(batch(dtype=F64)).values()).backward(),
    "another optimizer": lambda m, o: SGD(m.parameters(), lr=0.1).step(),
    "another optimizer, one by one": lambda m, o: AdamW(m.parameters(), foreach=False).step(),
    "another optimizer, fused": lambda m, o: AdamW(m.parameters(), fused=True).step(),
    "the wrapped optimizer": lambda m, o: o.optimizer.step(),
    "zeroing in place": lambda m, o: m.zero_grad(set_to_none=False),
    "another dtype": lambda m, o: m.float(),
    "parameters_to_vector": lambda m, o: nn.utils.parameters_to_vector(
        [p.grad for p in m.parameters()]
    ),
    "foreach": lambda m, o: torch._foreach_norm([p.grad for p in m.parameters()]),
    "compare": lambda m, o: torch.equal(next(m.parameters()).grad, torch.zeros(5, 3, dtype=F64)),
}


@pytest.mark.parametrize("use", USES)
def test_a_direction_that_is_never_written_is_not_taken_for_one(use: str) -> None:
    model, optimizer = waiting()
    with pytest.raises(RuntimeError, match=r"no values with fused=True.*fused=False"):
        USES[use](model, optimizer)
    # These change parameters before they fail.
    if use not in ("another dtype", "another optimizer, one by one"):
        like, reference = waiting(fused=False)
        optimizer.step()
        reference.step()
        assert difference((model, optimizer), (like, reference)) <= FLOAT64


@pytest.mark.parametrize("use", ["clip_grad_norm_", "a logged norm", "another backward pass"])
def test_the_uses_are_fine_where_the_direction_is_written(use: str) -> None:
    USES[use](*waiting(fused=False))


def test_a_grad_scaler_that_steps_by_itself_is_refused() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    model, optimizer = trained(BASES["momentum"], fused=True, steps=2)
    optimizer.zero_grad()
    optimizer.backward({n: scaler.scale(v) for n, v in model.losses(batch(dtype=F64)).items()})
    with pytest.raises(RuntimeError, match="no values with fused=True"):
        scaler.step(optimizer)


def test_metadata_is_that_of_the_parameter() -> None:
    model, _ = waiting()
    for p in model.parameters():
        g = p.grad
        assert (g.shape, g.dtype, g.device, g.layout) == (p.shape, p.dtype, p.device, p.layout)
        assert (g.numel(), g.dim(), g.size(), len(g)) == (p.numel(), p.dim(), p.size(), len(p))
        assert not g.is_sparse
        assert not g.requires_grad
        assert g.is_leaf
        assert f"Unwritten(shape={list(p.shape)}, dtype=torch.float64" in f"{g} {g!r} {g!s}"
    copy.deepcopy(model)
    pickle.dumps(model.state_dict())


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.filterwarnings("ignore:CommonDescent.step:UserWarning")
def test_zero_grad_drops_the_direction(set_to_none: bool) -> None:
    pair = []
    for fused in (True, False):
        model, optimizer = waiting(fused=fused)
        optimizer.zero_grad(set_to_none=set_to_none)
        gradients = [p.grad for p in model.parameters()]
        assert all(g is None if set_to_none else not g.any() for g in gradients)
        optimizer.step()  # along zeros, which is not the same as along nothing
        backward(model, optimizer, 3)
        pair.append((model, optimizer))
    assert difference(*pair) <= FLOAT64


def test_a_model_that_clears_the_gradients_skips_the_step() -> None:
    for fused in (True, False):
        model, optimizer = waiting(fused=fused)
        before = parameters_of(model)
        model.zero_grad()
        optimizer.step()
        assert all(map(torch.equal, before, parameters_of(model)))
        optimizer.backward(model.losses(batch(3, dtype=F64)))  # nothing waits
        optimizer.step()


def test_a_replaced_gradient_is_refused_and_may_be_put_back() -> None:
    model, optimizer = waiting()
    parameter = next(model.parameters())
    placed, parameter.grad = parameter.grad, torch.ones_like(parameter)
    before = parameters_of(model)
    with pytest.raises(
        RuntimeError, match=r"parameter 0 .* was replaced between backward and step"
    ):
        optimizer.step()
    assert all(map(torch.equal, before, parameters_of(model)))
    parameter.grad = placed
    optimizer.step()
    like, reference = waiting(fused=False)
    reference.step()
    assert difference((model, optimizer), (like, reference)) <= FLOAT64


def test_a_used_direction_is_not_used_again() -> None:
    model, optimizer = waiting()
    optimizer.step()
    before = parameters_of(model)
    with (
        pytest.warns(UserWarning, match="no objective recorded"),
        pytest.raises(RuntimeError, match=r"was used by a step.*zero_grad"),
    ):
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"was used by a step.*zero_grad"):
        optimizer.backward(model.losses(batch(3, dtype=F64)))
    with (
        pytest.raises(RuntimeError, match=r"was used by a step.*zero_grad"),
        optimizer.objective("a"),
    ):
        pass
    assert all(map(torch.equal, before, parameters_of(model)))
    backward(model, optimizer, 3)


def test_a_direction_that_waits_is_not_forgotten() -> None:
    model, optimizer = waiting()
    with pytest.raises(RuntimeError, match="was not used"):
        optimizer.backward(model.losses(batch(3, dtype=F64)))
    other = moopt.CommonDescent(SGD(model.parameters(), lr=0.1), fused=True)
    with pytest.raises(RuntimeError, match="another CommonDescent waits"):
        other.backward(model.losses(batch(3, dtype=F64)))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(RuntimeError, match="was not used"):
        optimizer.backward(model.losses(batch(3, dtype=F64)))
    optimizer.step()
    like, reference = waiting(fused=False)
    reference.step()
    assert difference((model, optimizer), (like, reference)) <= FLOAT64


def test_two_optimizers_of_one_model() -> None:
    pairs = []
    for fused in (True, False):
        model = seeded(TwoHeads, dtype=F64)
        trunk = moopt.CommonDescent(AdamW(model.trunk.parameters(), lr=0.01), fused=fused)
        heads = [*model.first.parameters(), *model.second.parameters()]
        other = moopt.CommonDescent(SGD(heads, lr=0.1, momentum=0.9), fused=fused)
        for step in range(6):
            for optimizer in (trunk, other):
                optimizer.zero_grad()
                optimizer.backward(model.losses(batch(step, dtype=F64)))
            trunk.step()
            other.step()
        pairs.append([(model, trunk), (model, other)])
    for fused, unfused in zip(*pairs, strict=True):
        assert difference(fused, unfused) <= FLOAT64


class Own(AdamW):
    """Not the update that the kernel knows."""


def hook(*given: Any) -> None:
    """A step hook."""


def test_what_would_be_wrong_is_refused_at_once() -> None:
    p = [nn.Parameter(torch.ones(2))]
    complex_ = [nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    hooked, patched = SGD(p, lr=0.1), SGD(p, lr=0.1)
    hooked.register_step_post_hook(hook)
    patched.step = lambda closure=None: None  # type: ignore[method-assign]
    refused = [
        (Own(p), TypeError, "SGD, Adam or AdamW itself.*Own"),
        (torch.optim.RMSprop(p), TypeError, "SGD, Adam or AdamW itself.*RMSprop"),
        (SGD(complex_, lr=0.1), TypeError, "real parameters"),
        (Adam(p, differentiable=True), ValueError, "no `differentiable` updates"),
        (Adam(p, capturable=True), ValueError, "no `capturable` updates"),
        (hooked, RuntimeError, "step hooks"),
        (patched, RuntimeError, "a replaced `step`"),
    ]
    for optimizer, error, message in refused:
        with pytest.raises(error, match=message):
            moopt.CommonDescent(optimizer, fused=True)
        moopt.CommonDescent(optimizer)
    with pytest.raises(TypeError, match="got a gradient aggregator"):
        moopt.CommonDescent(SGD(p, lr=0.1), "grad_drop", fused=True)
    handle = register_optimizer_step_pre_hook(hook)
    try:
        with pytest.raises(RuntimeError, match="step hooks"):
            moopt.CommonDescent(SGD(p, lr=0.1), fused=True)
    finally:
        handle.remove()


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a hook": (lambda o: o.optimizer.register_step_pre_hook(hook), "step hooks"),
    "a replaced step": (lambda o: setattr(o.optimizer, "step", hook), "a replaced `step`"),
    "another setting": (
        lambda o: o.param_groups[0].update(differentiable=True),
        "no `differentiable`",
    ),
    "a group": (
        lambda o: o.add_param_group({"params": [torch.ones(2, dtype=torch.complex64)]}),
        "real parameters",
    ),
    "a checkpoint": (
        lambda o: o.load_state_dict(
            AdamW([p.detach() for p in o.param_groups[0]["params"]], capturable=True).state_dict()
        ),
        "no `capturable`",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_became_wrong_is_refused_at_the_step(change: str) -> None:
    apply, message = CHANGES[change]
    for closure_too in (False, True):
        model, optimizer = trained(BASES["adamw"], fused=True, steps=2)
        apply(optimizer)
        before = parameters_of(model)
        losses = model.losses
        closure = (lambda losses=losses: losses(batch(dtype=F64))) if closure_too else None
        if closure is None:
            optimizer.zero_grad()
            optimizer.backward(losses(batch(dtype=F64)))
        with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
            optimizer.step(closure)
        assert all(map(torch.equal, before, parameters_of(model)))


def test_hooks_of_the_wrapper_run() -> None:
    model, optimizer = trained(BASES["adamw"], fused=True, steps=2)
    ran = []
    optimizer.register_step_pre_hook(lambda *given: ran.append("before"))
    optimizer.register_step_post_hook(lambda *given: ran.append("after"))
    backward(model, optimizer, 2)
    assert ran == ["before", "after"]


def test_a_scaler_is_refused_unless_it_is_off() -> None:
    model, optimizer = trained(BASES["adamw"], fused=True, steps=2)
    on, off = (torch.amp.GradScaler("cpu", enabled=enabled) for enabled in (True, False))
    with pytest.raises(ValueError, match="takes no GradScaler"):
        optimizer.backward(model.losses(batch(dtype=F64)), scaler=on)
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch(dtype=F64)), accumulate=True)
    with pytest.raises(ValueError, match="takes no GradScaler"):
        optimizer.combine_(scaler=on)
    optimizer.combine_(scaler=off)
    off.step(optimizer)


def test_an_aggregator_that_came_later_is_refused() -> None:
    model, optimizer = trained(BASES["adamw"], fused=True, steps=2)
    optimizer.weighting = moopt.CommonDescent(
        SGD(model.parameters(), lr=0.1), "grad_drop"
    ).weighting
    optimizer.zero_grad()
    with pytest.raises(TypeError, match="got a gradient aggregator"):
        optimizer.backward(model.losses(batch(dtype=F64)))
    assert all(p.grad is None for p in model.parameters())


def test_autograd_sees_that_the_parameters_changed() -> None:
    model, optimizer = waiting()
    late = model.losses(batch(dtype=F64))["a"]
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()
