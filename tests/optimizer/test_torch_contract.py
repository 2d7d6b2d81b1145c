"""A real torch.optim.Optimizer: bases, schedulers, scaler, hooks (TRAINING_STACK rules)."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

import moopt
from tests.optimizer.problems import OneOutput, batch, parameters_of, seeded

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw_for_loop": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def adafactor(p):
    optimization = pytest.importorskip("transformers.optimization")
    return optimization.Adafactor(p, scale_parameter=False, relative_step=False, lr=1e-2)


BASES["adafactor"] = adafactor


def train(model, optimizer, steps, start=0, after_step=None):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch(step)))
        optimizer.step()
        if after_step is not None:
            after_step()


def plain_sum(model, optimizer, steps, after_step=None):
    for step in range(steps):
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch(step)).values())).sum().backward()
        optimizer.step()
        if after_step is not None:
            after_step()


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_sum_is_plain_training_under_every_base_optimizer(base):
    model, plain = seeded(OneOutput), seeded(OneOutput)
    train(model, moopt.CommonDescent(base(model.parameters()), moopt.Sum()), 4)
    plain_sum(plain, base(plain.parameters()), 4)
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        # Adam-like bases divide by the gradient's magnitude: one rounding may become 1e-4 of a step
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_isinstance_and_delegation_by_property():
    model = seeded(OneOutput)
    base = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer = moopt.CommonDescent(base, moopt.MGDA())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults
    train(model, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is base.param_groups  # the base has new lists now
    optimizer.param_groups[0]["lr"] = 0.5
    assert base.param_groups[0]["lr"] == 0.5
    extra = torch.nn.Parameter(torch.ones(1))
    optimizer.add_param_group({"params": [extra]})
    assert base.param_groups[1]["params"][0] is extra
    optimizer.param_groups = optimizer.param_groups[:1]
    assert len(base.param_groups) == 1
    optimizer.defaults = dict(base.defaults)
    optimizer.state = base.state
    assert optimizer.defaults is base.defaults
    assert "AdamW" in repr(optimizer)
    assert "MGDA" in repr(optimizer)
    assert not hasattr(optimizer, "train")
    assert not hasattr(optimizer, "eval")
    with pytest.raises(AttributeError):
        optimizer.no_such_attribute  # noqa: B018  nothing is forwarded blindly


SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda e: 0.9**e),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda e: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=2),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=3),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 4),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], milestones=[2]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01),
}


def test_every_scheduler_of_torch_is_in_the_list():
    named = {
        name
        for name, cls in vars(schedulers).items()
        if isinstance(cls, type)
        and issubclass(cls, schedulers.LRScheduler)
        and cls is not schedulers.LRScheduler
        and not name.startswith("_")
    }
    assert named <= set(SCHEDULERS)


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_drive_the_learning_rate_of_the_base(make):
    def learning_rates(wrapped):
        model = seeded(OneOutput)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = moopt.CommonDescent(base, moopt.Sum()) if wrapped else base
        scheduler = make(optimizer)
        read = []

        def advance():
            if isinstance(scheduler, schedulers.ReduceLROnPlateau):
                scheduler.step(1.0)
            else:
                scheduler.step()
            if wrapped and len(read) == 2:
                optimizer.load_state_dict(optimizer.state_dict())
            read.extend([base.param_groups[0]["lr"], base.param_groups[0]["momentum"]])

        (train if wrapped else plain_sum)(model, optimizer, 5, after_step=advance)
        return read

    assert learning_rates(True) == pytest.approx(learning_rates(False))


# ------------------------------------------------------------------------------------- GradScaler

WEIGHTINGS = [
    moopt.Sum(),
    moopt.MGDA(),
    moopt.MGDA(normalize="l2"),
    moopt.MGDA(normalize="loss"),
    moopt.DualSpaceMGDA(variant="dual_basis"),
    moopt.CRMOGM(moopt.MGDA()),
]


@pytest.mark.parametrize("way", ["backward", "functional", "objective", "accumulate"])
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_scaler_takes_the_step_without_a_scaler(weighting, way):
    def run(scaled):
        model = seeded(OneOutput)
        optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), weighting)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=scaled)
        for step in range(3):
            optimizer.zero_grad()
            losses = model.losses(batch(step))
            if way == "backward":
                optimizer.backward(losses, scaler=scaler)
            elif way == "functional":
                moopt.backward(losses, optimizer, scaler=scaler)
            elif way == "accumulate":
                optimizer.backward(losses, scaler=scaler, accumulate=True)
                optimizer.backward(model.losses(batch(step + 10)), scaler=scaler)
            else:
                for name, loss in losses.items():
                    with optimizer.objective(name, loss):
                        scaler.scale(loss).backward(retain_graph=True)
                optimizer.combine_(scaler=scaler)
            record = optimizer.record
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        return parameters_of(model), record

    expected, record = run(False)
    got, scaled_record = run(True)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled_record.gramian, record.gramian, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(scaled_record.losses, record.losses, rtol=1e-6, atol=1e-9)


def test_scaler_skips_a_step_that_overflowed_and_training_goes_on():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = parameters_of(model)
    losses = model.losses(batch())
    losses["b"] = losses["b"] * float("inf")
    optimizer.backward(losses, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters_of(model), strict=True))
    assert scaler.get_scale() == 2.0**15
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch()), scaler=scaler)
    scaler.step(optimizer)
    assert not torch.equal(before[0], parameters_of(model)[0])


def test_a_fused_base_does_not_make_the_scaler_skip_unscaling():
    model = seeded(OneOutput)
    base = torch.optim.AdamW(model.parameters(), fused=True)
    assert getattr(base, "_step_supports_amp_scaling", False)
    assert not moopt.CommonDescent(base)._step_supports_amp_scaling


# ------------------------------------------------------------------------------- hooks and copies


def test_hooks_of_step_and_state_dict():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA())
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda _, sd: sd | {"note": 1})
    optimizer.register_load_state_dict_pre_hook(
        lambda _, sd: {k: v for k, v in sd.items() if k != "note"}
    )
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    train(model, optimizer, 1)
    state = optimizer.state_dict()
    assert state["note"] == 1
    optimizer.load_state_dict(state_dict=state)
    assert calls == ["pre", "post", "save", "loaded"]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_pickle_and_deepcopy_keep_everything(copier):
    def fresh():
        model = seeded(OneOutput)
        optimizer = moopt.CommonDescent(
            torch.optim.AdamW(model.parameters(), lr=0.01),
            moopt.CRMOGM(moopt.MGDA()),
            shared=list(model.parameters())[:2],
            inactive_tol=1e-4,
            record_every=2,
        )
        schedulers.StepLR(optimizer, 2)  # patches the instance's step
        train(model, optimizer, 3)
        return model, optimizer

    model, optimizer = fresh()
    other_model, other = copier((model, optimizer))
    assert (other.inactive_tol, other.record_every) == (1e-4, 2)
    assert other.weighting == optimizer.weighting
    train(model, optimizer, 2, start=3)
    train(other_model, other, 2, start=3)
    for a, b in zip(parameters_of(model), parameters_of(other_model), strict=True):
        assert torch.equal(a, b)
    assert other.record.step == optimizer.record.step == 4


def test_attributes_are_not_rebound_by_a_step():
    # a proxy that copies __dict__ (Lightning) would otherwise keep the new values to itself
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA())
    before = {key: id(value) for key, value in vars(optimizer).items()}
    train(model, optimizer, 2)
    optimizer.step(lambda: model.losses(batch()))
    assert {key: id(value) for key, value in vars(optimizer).items()} == before


def test_parameters_swapped_in_the_groups_are_followed():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA())
    train(model, optimizer, 1)
    layer = model.net[0]
    swapped = torch.nn.Parameter(layer.weight.detach().clone())
    layer.weight = swapped
    optimizer.param_groups[0]["params"][0] = swapped
    before = swapped.detach().clone()
    train(model, optimizer, 1)
    assert not torch.equal(before, swapped)


def test_gradient_clipping_sees_the_direction():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=1.0), moopt.MGDA())
    before = parameters_of(model)
    optimizer.backward(model.losses(batch()))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    moved = [(a - b).flatten() for a, b in zip(before, parameters_of(model), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_compiled_model_and_checkpointing_give_the_same_gramian():
    x = batch(dtype=torch.float64)
    expected = None
    for kind in ("plain", "reentrant", "non_reentrant", "compiled"):
        model = seeded(OneOutput, dtype=torch.float64)
        optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=1.0), moopt.MGDA())
        net = model.net
        if kind.endswith("reentrant"):
            inner = net
            net = lambda v, inner=inner, kind=kind: torch.utils.checkpoint.checkpoint(  # noqa: E731
                inner, v, use_reentrant=kind == "reentrant"
            )
        elif kind == "compiled":
            net = torch.compile(net, backend="aot_eager")
        y = net(x.clone().requires_grad_())
        losses = {"a": (y[:, 0] - 1).square().mean(), "b": (y[:, 0] + y[:, 1]).square().mean()}
        if kind == "compiled":
            with torch._functorch.config.patch(donated_buffer=False):
                y = torch.compile(model.net, backend="aot_eager")(x)
                losses = {
                    "a": (y[:, 0] - 1).square().mean(),
                    "b": (y[:, 0] + y[:, 1]).square().mean(),
                }
                record = optimizer.backward(losses)
        else:
            record = optimizer.backward(losses)
        expected = record.gramian if expected is None else expected
        torch.testing.assert_close(record.gramian, expected, rtol=1e-9, atol=1e-12)
