"""fused=True: the same steps as the unfused optimizer's, and whatever would be wrong is refused."""

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
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._pytree import tree_flatten

import moopt
from moopt.optim import fused_step as module
from moopt.scalarizations import STCH
from moopt.weightings import MoDo, OrthogonalSteepestDescent
from tests.optimizer.problems import OneOutput, TwoHeads, batch, parameters_of, seeded

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
STEPS = 20
FLOAT64 = 1e-12
"""Relative to 1 and the entry: 20 steps of float64's rounding."""
FLOAT32 = 2e-5
"""The same in float32: Adam divides by the size of a direction whose rounding it thereby keeps."""

Take = Callable[[nn.Module, moopt.CommonDescent, int], None]
F64 = torch.float64


def backward(model: nn.Module, optimizer: moopt.CommonDescent, step: int) -> None:
    dtype = next(model.parameters()).dtype
    sign = -1.0 if optimizer.param_groups[0]["maximize"] else 1.0
    optimizer.zero_grad()
    losses = model.losses(batch(step, dtype=dtype))
    optimizer.backward({name: sign * loss for name, loss in losses.items()})
    optimizer.step()


def trained(
    base: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    fused: bool,
    cls: type[nn.Module] = OneOutput,
    dtype: torch.dtype = F64,
    take: Take = backward,
    steps: int = STEPS,
    **options: Any,
) -> tuple[nn.Module, moopt.CommonDescent]:
    model = seeded(cls, dtype=dtype)
    optimizer = moopt.CommonDescent(base(model), fused=fused, **options)
    for step in range(steps):
        take(model, optimizer, step)
    return model, optimizer


def difference(one: Any, other: Any) -> float:
    """How far two models and the states of their optimizers are apart; infinity where unlike."""
    (mine, form), (its, wanted) = (
        tree_flatten((parameters_of(model), optimizer.state_dict()))
        for model, optimizer in (one, other)
    )
    apart = [0.0]
    for found, like in zip(mine, its, strict=True) if form == wanted else [(0, 1)]:
        if isinstance(found, Tensor) and isinstance(like, Tensor):
            same = (found.dtype, found.shape) == (like.dtype, like.shape)
            error = (found - like).abs() / (1.0 + like.abs()) if same else torch.tensor(torch.inf)
            apart.append(float(error.max()))
        elif found != like:
            apart.append(float("inf"))
    return max(apart)


def both(base: Any, **options: Any) -> tuple[Any, Any]:
    return trained(base, fused=True, **options), trained(base, fused=False, **options)


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


BASES = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.05),
    "momentum": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda m: Adam(m.parameters(), lr=0.01, weight_decay=0.1),
    "adamw": lambda m: AdamW(m.parameters(), lr=0.01),
    "amsgrad over torch's fused": lambda m: AdamW(
        m.parameters(), lr=0.01, amsgrad=True, fused=True
    ),
}
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


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


def waiting(fused: bool = True, **options: Any) -> tuple[nn.Module, moopt.CommonDescent]:
    """A direction waits for the third step."""
    model, optimizer = trained(BASES["momentum"], fused=fused, steps=2, **options)
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch(2, dtype=F64)))
    return model, optimizer


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
