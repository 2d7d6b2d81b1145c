"""Save, load, resume: bit-equal, with a stateful weighting."""

from __future__ import annotations

import warnings

import pytest
import torch

import moopt
from tests.optimizer.problems import OneOutput, batch, parameters_of, seeded
from tests.optimizer.test_torch_contract import train

NAMES = ("a", "b", "c")


STATEFUL = moopt.CRMOGM(moopt.MGDA())


def make(model, base=torch.optim.AdamW, method=STATEFUL, **options):
    return moopt.CommonDescent(base(model.parameters(), lr=0.01), method, **options)


def state_of(optimizer):
    return {k: v for k, v in optimizer.param_groups[0].items() if str(k).startswith("moopt_")}


@pytest.mark.parametrize("objectives", [None, NAMES])
def test_save_load_resume_is_bit_equal(tmp_path, objectives):
    model = seeded(OneOutput)
    optimizer = make(model, objectives=objectives)
    train(model, optimizer, 3)
    torch.save({"model": model.state_dict(), "opt": optimizer.state_dict()}, tmp_path / "ckpt.pt")
    train(model, optimizer, 3, start=3)

    resumed = seeded(OneOutput, seed=1)
    other = make(resumed, objectives=objectives)
    loaded = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    resumed.load_state_dict(loaded["model"])
    other.load_state_dict(state_dict=loaded["opt"])
    train(resumed, other, 3, start=3)
    for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True):
        assert torch.equal(a, b)
    for key, value in state_of(optimizer).items():
        same = torch.equal(value, state_of(other)[key]) if torch.is_tensor(value) else None
        assert same if same is not None else value == state_of(other)[key]


def test_resume_without_the_weightings_state_differs(tmp_path):
    # the check above can fail: drop the state and the trajectory changes
    model = seeded(OneOutput)
    optimizer = make(model)
    train(model, optimizer, 3)
    state = optimizer.state_dict()
    for key in state_of(optimizer):
        del state["param_groups"][0][key]
    resumed = seeded(OneOutput)
    resumed.load_state_dict(model.state_dict())
    other = make(resumed)
    other.load_state_dict(state)
    train(model, optimizer, 3, start=3)
    train(resumed, other, 3, start=3)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True)
    )


def test_a_checkpoint_of_the_base_optimizer_alone_loads():
    model = seeded(OneOutput)
    base = torch.optim.AdamW(model.parameters(), lr=0.5)
    optimizer = make(model, objectives=NAMES)
    optimizer.load_state_dict(base.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert state_of(optimizer)["moopt_names"] == list(NAMES)


def test_bf16_parameters_do_not_cast_the_state():
    model = seeded(OneOutput, dtype=torch.bfloat16)
    optimizer = moopt.CommonDescent(
        torch.optim.AdamW(model.parameters()), moopt.CRMOGM(moopt.MGDA())
    )
    for step in range(2):
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch(step, dtype=torch.bfloat16)))
        optimizer.step()
    before = state_of(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    tensors = {key: value for key, value in before.items() if torch.is_tensor(value)}
    assert torch.float64 in {value.dtype for value in tensors.values()}
    for key, value in tensors.items():
        assert state_of(optimizer)[key].dtype == value.dtype
        assert torch.equal(state_of(optimizer)[key], value)


@pytest.fixture
def one_process_group(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def quiet(call, *args, **kwargs):
    """torch.distributed.checkpoint warns about its own deprecations; ours must stay silent."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = call(*args, **kwargs)
    assert not [w for w in warned if "CommonDescent" in str(w.message)]
    return result


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("method", [STATEFUL, moopt.aggregators.MoCo()])
def test_distributed_checkpoint_round_trip(tmp_path, one_process_group, method, base, flatten):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as dsd

    options = dsd.StateDictOptions(flatten_optimizer_state_dict=flatten)
    model = seeded(OneOutput)
    optimizer = make(model, base, method, objectives=NAMES)
    train(model, optimizer, 3)
    saved = quiet(dsd.get_state_dict, model, optimizer, options=options)
    quiet(dcp.save, {"model": saved[0], "opt": saved[1]}, checkpoint_id=tmp_path / "ckpt")
    train(model, optimizer, 3, start=3)

    resumed = seeded(OneOutput, seed=1)
    other = make(resumed, base, method, objectives=NAMES)
    target = quiet(dsd.get_state_dict, resumed, other, options=options)
    state = {"model": target[0], "opt": target[1]}
    quiet(dcp.load, state, checkpoint_id=tmp_path / "ckpt")
    quiet(
        dsd.set_state_dict,
        resumed,
        other,
        model_state_dict=state["model"],
        optim_state_dict=state["opt"],
        options=options,
    )
    assert state_of(other)["moopt_step"] == 3
    train(resumed, other, 3, start=3)
    for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True):
        assert torch.equal(a, b)
    assert other.record.bypassed == 0


def test_distributed_checkpoint_of_a_stateful_weighting_needs_the_names(one_process_group):
    from torch.distributed.checkpoint import state_dict as dsd

    model = seeded(OneOutput)
    optimizer = make(model)
    with pytest.raises(RuntimeError, match="objectives=\\(names\\)"):
        quiet(dsd.get_state_dict, model, optimizer)


def test_accelerate_prepare_and_the_functional_core():
    accelerate = pytest.importorskip("accelerate")
    model = seeded(OneOutput)
    optimizer = make(model)
    expected = seeded(OneOutput)
    train(expected, make(expected), 3)
    accelerator = accelerate.Accelerator(cpu=True)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    prepared, wrapped, scheduler = accelerator.prepare(model, optimizer, scheduler)
    assert not hasattr(wrapped, "backward")
    for step in range(3):
        wrapped.zero_grad()
        record = moopt.backward(prepared.losses(batch(step)), wrapped)
        accelerator.clip_grad_norm_(prepared.parameters(), 1e9)
        wrapped.step()
        scheduler.step()
        assert record.names == NAMES
    for a, b in zip(parameters_of(expected), parameters_of(model), strict=True):
        assert torch.equal(a, b)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("saved", "built"), [("gradnorm", "crmogm"), ("pcgrad", "random"), ("gradvac", "pcgrad")]
)
def test_the_state_of_another_method_is_refused(saved, built):
    """Also where it holds every key that this one has."""
    w = torch.nn.Parameter(torch.ones(2))
    first = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), saved)
    first.backward({"a": w[0] ** 2, "b": (w[0] - w[1]) ** 2})
    first.step()
    second = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), built)
    with pytest.raises(ValueError, match="state is of another weighting"):
        second.load_state_dict(first.state_dict())
