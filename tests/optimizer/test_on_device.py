"""A step without readback is the same step, and reads nothing; its record is read when looked at.

On CUDA it is the ordinary one. Here it is forced on host memory, in plain PyTorch, and on meta
tensors, of which any readback is an error.
"""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

import moopt
from moopt.records.unread import UnreadRecord
from moopt.weightings import DualProj, UPGrad
from tests.optimizer.problems import OneOutput, TwoHeads, batch, parameters_of, seeded

METHODS = {
    "raw": lambda: moopt.MGDA(),
    "l2": lambda: moopt.MGDA(normalize="l2"),
    "upgrad": lambda: UPGrad(),
    "preferred": lambda: UPGrad(preference=[1.0, 2.0, 0.5][: len("abc")]),
    "dual_proj": lambda: DualProj(),
}


def on_device(model, method, **options) -> moopt.CommonDescent:
    """Every step without readback, wherever the parameters lie."""
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), method, **options)
    optimizer._pending.on_device.always = True
    return optimizer


def pair(model_class, method, **options):
    """A model that is stepped without readback, its twin that is not, and their optimizers."""
    ours = seeded(model_class, dtype=torch.float64)
    theirs = copy.deepcopy(ours)
    optimizer = moopt.CommonDescent(torch.optim.SGD(theirs.parameters(), lr=0.1), method, **options)
    return (ours, on_device(ours, method, **options)), (theirs, optimizer)


def same(ours: moopt.StepRecord, theirs: moopt.StepRecord) -> None:
    """Two records tell the same."""
    assert ours.names == theirs.names
    assert (ours.status, ours.descent, ours.fell_back) == (
        *(theirs.status, theirs.descent, theirs.fell_back),
    )
    assert (ours.fallbacks, ours.step) == (theirs.fallbacks, theirs.step)
    for field in ("losses", "weights", "gramian"):
        torch.testing.assert_close(getattr(ours, field), getattr(theirs, field), equal_nan=True)
    assert torch.equal(ours.active, theirs.active)
    assert ours.stationarity == pytest.approx(theirs.stationarity, abs=1e-7, nan_ok=True)
    assert ours.raised == theirs.raised
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("model_class", [OneOutput, TwoHeads])
@pytest.mark.parametrize("name", METHODS)
def test_the_trajectory_is_that_of_the_host(name, model_class) -> None:
    if name == "preferred" and model_class is TwoHeads:
        pytest.skip("three preferences")
    (ours, first), (theirs, second) = pair(model_class, METHODS[name]())
    for step in range(20):
        x = batch(step, dtype=torch.float64)
        records = []
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            records.append(optimizer.backward(model.losses(x)))
            optimizer.step()
        assert isinstance(records[0], UnreadRecord)
        assert not isinstance(records[1], UnreadRecord)
        same(*records)
    torch.testing.assert_close(parameters_of(ours), parameters_of(theirs), rtol=1e-9, atol=1e-12)


def test_a_fused_update_takes_the_weights_where_they_lie() -> None:
    (ours, first), _ = pair(OneOutput, UPGrad(), fused=True)
    _, (theirs, second) = pair(OneOutput, UPGrad())
    for step in range(5):
        x = batch(step, dtype=torch.float64)
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            optimizer.backward(model.losses(x))
            optimizer.step()
    torch.testing.assert_close(parameters_of(ours), parameters_of(theirs), rtol=1e-9, atol=1e-12)


def test_a_step_that_weighs_otherwise_is_seen() -> None:
    (ours, first), (theirs, second) = pair(OneOutput, moopt.MGDA())
    second.weighting = moopt.MGDA(normalize="l2")
    x = batch(dtype=torch.float64)
    with pytest.raises(AssertionError):
        same(first.backward(ours.losses(x)), second.backward(theirs.losses(x)))


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_read(name) -> None:
    """Of meta tensors there is nothing to read: any attempt raises."""
    model = seeded(OneOutput).to("meta")
    base = torch.optim.AdamW(model.parameters())
    optimizer = moopt.CommonDescent(base, METHODS[name]())
    optimizer.capturable = optimizer._pending.on_device.always = True
    for _ in range(2):
        record = optimizer.backward(model.losses(batch().to("meta")))
        optimizer.step()
        optimizer.zero_grad()
    assert record.names == ("a", "b", "c")
    with pytest.raises(NotImplementedError, match="meta"):
        record.weights  # noqa: B018


def test_the_host_reads() -> None:
    """What the test before sees where a step looks at values."""
    model = seeded(OneOutput).to("meta")
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        optimizer.backward(model.losses(batch().to("meta")))


def test_blocks_micro_batches_and_closures_take_the_same_step() -> None:
    x, y = batch(0, dtype=torch.float64), batch(1, dtype=torch.float64)

    def blocks(model, optimizer):
        for part in (x, y):
            for name, loss in model.losses(part).items():
                with optimizer.objective(name, loss):
                    loss.backward(retain_graph=True)
        optimizer.combine_()
        optimizer.step()

    def micro_batches(model, optimizer):
        optimizer.backward(model.losses(x), accumulate=True)
        optimizer.backward(model.losses(y))
        optimizer.step()

    def closure(model, optimizer):
        optimizer.step(lambda: model.losses(x))

    for way in (blocks, micro_batches, closure):
        pairs = pair(OneOutput, UPGrad())
        for model, optimizer in pairs:
            way(model, optimizer)
        (ours, first), (theirs, second) = pairs
        same(first.record, second.record)
        torch.testing.assert_close(parameters_of(ours), parameters_of(theirs))


@pytest.mark.parametrize("trouble", ["nan", "inf", "zero", "alone", "apart", "no losses"])
def test_trouble_is_dealt_with_alike(trouble) -> None:
    records, gradients = [], []
    for model, optimizer in pair(OneOutput, moopt.MGDA(normalize="l2"), inactive_tol=1e-3):
        a = model.net[0].weight
        losses = {"a": a.square().sum(), "b": (a - 1.0).square().sum()}
        if trouble in ("nan", "inf"):
            losses["b"] = losses["b"] * float(trouble)
        elif trouble == "zero":
            losses["b"] = losses["b"] * 0.0 + 1.0
        elif trouble == "alone":
            del losses["b"]
        elif trouble == "apart":
            losses["b"] = model.net[2].weight.square().sum()
        if trouble == "no losses":
            for name, loss in losses.items():
                with optimizer.objective(name):
                    loss.backward()
            records.append(optimizer.combine_())
        else:
            records.append(optimizer.backward(losses))
        gradients.append([p.grad for p in model.parameters()])
    same(*records)
    torch.testing.assert_close(*gradients, equal_nan=True)


def test_a_scaler_changes_nothing() -> None:
    records, gradients = [], []
    for model, optimizer in pair(OneOutput, moopt.MGDA()):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        records.append(optimizer.backward(model.losses(batch(dtype=torch.float64)), scaler=scaler))
        gradients.append([p.grad / 1024.0 for p in model.parameters()])
    same(*records)
    torch.testing.assert_close(*gradients)


def test_fallbacks_are_counted_on_the_device_and_survive_a_pickle() -> None:
    """Gradients that cancel but for rounding leave no direction on the cone."""
    model = torch.nn.Linear(2, 1, bias=False).double()
    optimizer = on_device(model, UPGrad())
    other = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.0), UPGrad())
    for scale in (1.0, 1e-9, 1.0):
        for one in (optimizer, other):
            w = model.weight[0]
            one.zero_grad()
            one.backward({"a": w[0] + scale * w[1], "b": -w[0] + scale * w[1]})
            one.zero_grad()
        assert optimizer.record.fallbacks == other.record.fallbacks
    optimizer._pending.on_device.kept[-2] += 5.0
    again = pickle.loads(pickle.dumps(optimizer))
    assert again._pending.on_device.fallbacks() == optimizer._pending.on_device.fallbacks() >= 5


def test_records_are_read_once_copied_and_pickled() -> None:
    (model, optimizer), _ = pair(OneOutput, moopt.MGDA())
    record = optimizer.backward(model.losses(batch(dtype=torch.float64)))
    assert type(record) is UnreadRecord
    for other in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert type(other) is moopt.StepRecord
        assert torch.equal(other.weights, record.weights)
    assert type(record) is moopt.StepRecord
    again = optimizer.backward  # the next one is unread again
    optimizer.step()
    optimizer.zero_grad()
    assert type(again(model.losses(batch(1, dtype=torch.float64)))) is UnreadRecord


def test_objectives_come_and_go() -> None:
    (ours, first), (theirs, second) = pair(OneOutput, moopt.MGDA())
    for step, left_out in enumerate(["", "a", "", "b"]):
        records = []
        for model, optimizer in ((ours, first), (theirs, second)):
            losses = model.losses(batch(step, dtype=torch.float64))
            losses.pop(left_out, None)
            optimizer.zero_grad()
            records.append(optimizer.backward(losses))
            optimizer.step()
        same(*records)


def test_an_idle_objective_is_named_once_records_are_read() -> None:
    (model, optimizer), _ = pair(OneOutput, moopt.MGDA(normalize="l2"))

    def step(look: bool) -> None:
        losses = model.losses(batch(dtype=torch.float64))
        optimizer.zero_grad()
        record = optimizer.backward({"a": losses["a"], "b": 1e-9 * losses["b"] + 1.0})
        optimizer.step()
        if look:
            assert record.inactive == ("b",)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(24):
            step(look=False)
        step(look=True)
    with pytest.warns(UserWarning, match="'b' was left out of 20 steps"):
        step(look=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(look=True)


def test_capturable_is_refused_on_the_host() -> None:
    model = seeded(OneOutput)
    with pytest.raises(ValueError, match="needs every parameter on a CUDA device; got cpu"):
        moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), capturable=True)


@pytest.mark.parametrize(
    ("method", "options", "told"),
    [
        ("pcgrad", {}, "is weighed by the host"),
        (moopt.MGDA(normalize="loss"), {}, "is weighed by the host"),
        (moopt.MGDA(solver="frank_wolfe"), {}, "is weighed by the host"),
        (None, {"skip_non_finite": True}, "looks at every gradient"),
    ],
)
def test_what_the_host_must_see_is_refused_where_nothing_may_be_read(method, options, told):
    model = seeded(OneOutput)
    optimizer = on_device(model, method, **options)
    with pytest.raises(RuntimeError, match=told):
        optimizer.backward(model.losses(batch()))


def test_a_subclass_with_its_own_weights_is_weighed_by_the_host() -> None:
    class Mine(moopt.MGDA):
        """Half of it. Source: this test, 2026."""

        def weigh(self, problem, state):
            solved = super().weigh(problem, state)
            return solved._replace(weights=0.5 * solved.weights)

    assert Mine().device_point is None
    assert moopt.MGDA().device_point is not None
