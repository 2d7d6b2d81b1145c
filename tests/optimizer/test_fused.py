"""fused=True: the same steps as the unfused optimizer's."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

import moopt
from moopt.optim import fused_step as module
from moopt.scalarizations import STCH
from moopt.weightings import MoDo, OrthogonalSteepestDescent
from tests.optimizer.fused import (
    BASES,
    F64,
    FLOAT32,
    FLOAT64,
    SGD,
    STEPS,
    Adam,
    AdamW,
    backward,
    both,
    difference,
    trained,
    waiting,
)
from tests.optimizer.problems import OneOutput, TwoHeads, batch, parameters_of, seeded

every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


@pytest.fixture
def fused_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of parameters in each call of the kernel."""
    calls: list[int] = []

    def counted(parameters: Any, *others: Any) -> None:
        calls.append(len(parameters))
        kernel(parameters, *others)

    kernel = module.combine_update_
    monkeypatch.setattr(module, "combine_update_", counted)
    return calls


@st.composite
def bases(draw: st.DrawFn) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Any setting of the three optimizers, in two groups, over any of torch's own forms."""
    cls = draw(st.sampled_from((SGD, Adam, AdamW)))
    form: dict[str, Any] = draw(st.sampled_from(({"foreach": True}, {"fused": True}, {})))
    decays = st.sampled_from((0.0, 0.01, 0.3))
    options: dict[str, Any] = {"maximize": draw(st.booleans())}
    if cls is SGD:
        options |= {"momentum": draw(st.sampled_from((0.0, 0.5, 0.9)))}
        options |= {"dampening": draw(st.sampled_from((0.0, 0.3)))}
        if options["momentum"] and not options["dampening"]:
            options |= {"nesterov": draw(st.booleans())}
    else:
        options |= {"betas": draw(st.sampled_from(((0.9, 0.999), (0.0, 0.9), (0.5, 0.95))))}
        options |= {"amsgrad": draw(st.booleans()), "eps": draw(st.sampled_from((1e-8, 1e-3)))}
    rates, decayed = (
        draw(st.lists(st.floats(1e-4, 0.05), min_size=2, max_size=2)),
        [draw(decays), draw(decays)],
    )
    tensor = draw(st.booleans()) and form != {"foreach": True}

    def make(model: nn.Module) -> torch.optim.Optimizer:
        parameters = list(model.parameters())
        groups = [
            {
                "params": part,
                "lr": torch.tensor(lr, dtype=F64) if tensor else lr,
                "weight_decay": wd,
            }
            for part, lr, wd in zip((parameters[:1], parameters[1:]), rates, decayed, strict=True)
        ]
        return cls(groups, lr=0.01, **form, **options)

    return make


@settings(deadline=None, max_examples=60)
@given(
    base=bases(),
    cls=st.sampled_from((OneOutput, TwoHeads)),
    weighting=st.sampled_from(("mgda_l2", "upgrad", "sum", "pcgrad", "stch")),
)
def test_twenty_steps_are_those_of_the_unfused(base: Any, cls: Any, weighting: str) -> None:
    fused, unfused = both(base, cls=cls, weighting=weighting)
    assert difference(fused, unfused) <= FLOAT64
    assert repr(fused[1]).endswith("fused=True)")


@every_base
def test_all_but_the_first_step_are_fused(base: Any, fused_steps: list[int]) -> None:
    trained(base, fused=True, steps=5)
    first = base is BASES["sgd"]  # without a state there is nothing to wait for
    assert fused_steps == [4] * (4 + first)


@every_base
def test_float32_differs_by_rounding(base: Any) -> None:
    assert difference(*both(base, dtype=torch.float32)) <= FLOAT32


@every_base
def test_16_bits_are_no_further_from_float64_than_the_unfused(base: Any) -> None:
    """One step from the same state: the direction is not rounded on its way."""
    wide, state = trained(base, fused=False, steps=3)
    losses = {}
    for fused in (True, False):
        model = seeded(OneOutput, dtype=torch.bfloat16)
        model.load_state_dict(wide.state_dict())
        optimizer = moopt.CommonDescent(base(model), fused=fused)
        optimizer.load_state_dict(copy.deepcopy(state.state_dict()))
        exact = copy.deepcopy(model).double()
        reference = moopt.CommonDescent(base(exact))
        reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        backward(model, optimizer, 3)
        backward(exact, reference, 3)
        losses[fused] = torch.cat(
            [
                (a.double() - b).abs().flatten()
                for a, b in zip(model.parameters(), exact.parameters(), strict=True)
            ]
        ).detach()
    eps = torch.finfo(torch.bfloat16).eps
    assert losses[True].mean() <= losses[False].mean() * 1.1 + 1e-6
    assert losses[True].max() <= 3 * eps


PLANTED = {
    "weights in another order": lambda p, s, r, w, n: (p, s, r, w.flip(0), n),
    "a state that is not kept": lambda p, s, r, w, n: (
        p,
        [[x.clone() for x in k] for k in s],
        r,
        w,
        n,
    ),
    "another learning rate": lambda p, s, r, w, n: (p, s, r, w, n * (1.0 + 1e-9)),
    "a row too few": lambda p, s, r, w, n: (p, s, r[1:], w[1:], n),
    "a parameter too few": lambda p, s, r, w, n: (
        *(p[1:], [k[1:] for k in s], [k[1:] for k in r], w, n[1:]),
    ),
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_seen(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = module.combine_update_
    monkeypatch.setattr(module, "combine_update_", lambda *given: kernel(*PLANTED[error](*given)))
    assert difference(*both(BASES["momentum"])) > 1e3 * FLOAT64


def test_steps_that_are_not_counted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_foreach_add_", lambda tensors, one: None)
    base = lambda m: AdamW(m.parameters(), lr=0.01, foreach=False)  # noqa: E731
    assert difference(*both(base)) > 0.01


SCHEDULES = {
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=STEPS),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("on", ["the wrapper", "the wrapped optimizer"])
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor lr"])
def test_schedulers_count_the_steps(schedule: Any, on: str, tensor: bool) -> None:
    def take(model: nn.Module, optimizer: Any, step: int) -> None:
        if step == 0:
            optimizer.schedule = schedule(optimizer if on == "the wrapper" else optimizer.optimizer)
        backward(model, optimizer, step)
        optimizer.schedule.step()

    def base(model: nn.Module) -> torch.optim.Optimizer:
        lr = torch.tensor(0.01, dtype=F64) if tensor else 0.01
        return AdamW(model.parameters(), lr=lr, fused=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference(*both(base, take=take)) <= FLOAT64


@pytest.mark.parametrize("on", ["the wrapper", "the wrapped optimizer"])
def test_a_scheduler_of_a_resumed_run_does_not_warn(on: str) -> None:
    _, before = trained(BASES["adamw"], fused=True, steps=2)
    model = seeded(OneOutput, dtype=F64)
    optimizer = moopt.CommonDescent(BASES["adamw"](model), fused=True)
    schedule = schedulers.CosineAnnealingLR(
        optimizer if on == "the wrapper" else optimizer.optimizer, 9
    )
    optimizer.load_state_dict(before.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(model, optimizer, 2)
        schedule.step()
    assert "step" not in optimizer.state_dict()["param_groups"][0]


@every_base
@pytest.mark.parametrize("order", [(True, False, True), (False, True, False)])
def test_a_run_may_change_between_fused_and_unfused(base: Any, order: tuple[bool, ...]) -> None:
    model, optimizer = trained(base, fused=order[0], steps=4)
    for k, fused in enumerate(order[1:], 1):
        saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
        optimizer = moopt.CommonDescent(base(model), fused=fused)
        optimizer.load_state_dict(saved)
        for step in range(4 * k, 4 * k + 4):
            backward(model, optimizer, step)
    assert difference((model, optimizer), trained(base, fused=False, steps=12)) <= FLOAT64


def micro_batches(model: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch(step, dtype=F64)), accumulate=True)
    optimizer.backward(model.losses(batch(step + 50, dtype=F64)))
    optimizer.step()


def blocks(model: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    for name in model.losses(batch(step, dtype=F64)):
        with optimizer.objective(name):
            model.losses(batch(step, dtype=F64))[name].backward()
    optimizer.combine_()
    optimizer.step()


def closure(model: nn.Module, optimizer: Any, step: int) -> None:
    losses = {}

    def evaluate() -> dict[str, Tensor]:
        losses.update(model.losses(batch(step, dtype=F64)))
        return losses

    value = optimizer.step(evaluate)
    weights = dict(zip(optimizer.record.names, optimizer.record.weights, strict=True))
    assert value == pytest.approx(
        float(sum(weights[name] * losses[name].detach() for name in weights))
    )


def zeros_that_stay(model: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    optimizer.backward(model.losses(batch(step, dtype=F64)))
    optimizer.step()


def gradients_of_others(model: nn.Module, optimizer: Any, step: int) -> None:
    """A penalty whose gradient lies in `.grad` before, and stays out of the Gramian."""
    optimizer.zero_grad()
    sum(p.square().sum() for p in model.parameters()).mul(1e-2).backward()
    optimizer.backward(model.losses(batch(step, dtype=F64)))
    optimizer.step()


def cleared_for_one(model: nn.Module, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch(step, dtype=F64)))
    next(model.parameters()).grad = None
    optimizer.step()


def objectives_that_come_and_go(model: nn.Module, optimizer: Any, step: int) -> None:
    losses = model.losses(batch(step, dtype=F64))
    optimizer.zero_grad()
    optimizer.backward(dict(list(losses.items())[: 1 + step % len(losses)]))
    optimizer.step()


def frozen_for_a_while(model: nn.Module, optimizer: Any, step: int) -> None:
    next(model.parameters()).requires_grad_(step % 3 > 0)
    backward(model, optimizer, step)


def infinite_at_times(model: nn.Module, optimizer: Any, step: int) -> None:
    losses = model.losses(batch(step, dtype=F64))
    name = next(iter(losses))
    losses[name] = losses[name] * (float("inf") if step % 3 == 1 else 1.0)
    optimizer.zero_grad()
    optimizer.backward(losses)
    optimizer.step()


WAYS = {
    "micro-batches": (micro_batches, {}),
    "blocks": (blocks, {}),
    "closure": (closure, {}),
    "zeros that stay": (zeros_that_stay, {}),
    "gradients of others": (gradients_of_others, {}),
    "cleared for one": (cleared_for_one, {}),
    "objectives that come and go": (objectives_that_come_and_go, {}),
    "frozen for a while": (frozen_for_a_while, {}),
    "skip_non_finite": (infinite_at_times, {"skip_non_finite": True}),
    "record_every": (backward, {"record_every": 3, "weighting": "sum"}),
    "a scalarization by blocks": (micro_batches, {"weighting": STCH(mu=1.0)}),
}


@every_base
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", [OneOutput, TwoHeads])
@pytest.mark.filterwarnings("ignore:CommonDescent.step:UserWarning")
def test_every_way_in_is_the_unfused_one(base: Any, way: str, cls: Any) -> None:
    take, options = WAYS[way]
    fused, unfused = both(base, cls=cls, take=take, **options)
    assert difference(fused, unfused) <= FLOAT64
    assert fused[1].record.as_dict().keys() == unfused[1].record.as_dict().keys()


@pytest.mark.parametrize("cls", [OneOutput, TwoHeads])
def test_rows_that_are_not_objectives(cls: Any) -> None:
    start = parameters_of(seeded(cls, dtype=F64))

    def samples(model: nn.Module, optimizer: Any, step: int) -> None:
        optimizer.zero_grad()
        further = [model.losses(batch(100 * k + step, dtype=F64)) for k in (1, 2)]
        optimizer.backward(model.losses(batch(step, dtype=F64)), samples=further)
        optimizer.step()

    def drift(model: nn.Module, optimizer: Any, step: int) -> None:
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch(step, dtype=F64)), accumulate=True)
        with optimizer.auxiliary("drift"):
            for p, q in zip(model.parameters(), start, strict=True):
                p.grad = p.detach() - 0.9 * q
        optimizer.combine_()
        optimizer.step()

    names = list(seeded(cls).losses(batch()))
    steepest = OrthogonalSteepestDescent(forget=names[:1], retain=names[1:], drift="drift")
    for take, weighting in ((samples, MoDo(step_size=0.05)), (drift, steepest)):
        pair = both(BASES["adamw"], cls=cls, take=take, weighting=weighting)
        assert difference(*pair) <= FLOAT64


def test_objectives_that_share_no_parameter() -> None:
    def take(model: nn.Module, optimizer: Any, step: int) -> None:
        first, second = model.parameters()
        optimizer.zero_grad()
        optimizer.backward({"a": (first - 1).square().sum(), "b": second.pow(4).sum()})
        optimizer.step()

    class Two(nn.ParameterList):
        def __init__(self) -> None:
            super().__init__([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))])

    assert difference(*both(BASES["adamw"], cls=Two, take=take)) <= FLOAT64


@every_base
def test_a_single_objective_and_a_single_pass_are_bit_for_bit_the_unfused_step(base: Any) -> None:
    def single(model: nn.Module, optimizer: Any, step: int) -> None:
        optimizer.zero_grad()
        optimizer.backward({"a": model.losses(batch(step, dtype=F64))["a"]})
        optimizer.step()

    assert difference(*both(base, take=single)) == 0.0
    assert difference(*both(base, weighting="stch")) == 0.0


def test_copies_and_pickles_stay_fused(fused_steps: list[int]) -> None:
    _, optimizer = waiting()
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.fused
        parameters = again.param_groups[0]["params"]
        assert all(p.grad is None for p in parameters)
        again.backward({"a": parameters[0].square().sum(), "b": parameters[0].sum()})
        fused_steps.clear()
        again.step()
        assert fused_steps == [1]
