"""Faults that an attack on the optimizer found, each as it was reproduced."""

from __future__ import annotations

import weakref

import pytest
import torch

import moopt
from moopt.step.differentiate import shares_graph
from tests.optimizer.problems import OneOutput, batch, seeded


def sgd(parameters, lr=0.1):
    return torch.optim.SGD(parameters, lr=lr)


def test_complex_parameters_with_lazily_conjugated_gradients():
    c = torch.randn(3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    optimizer = moopt.CommonDescent(sgd([p]), moopt.Constant([2.0, 3.0]))
    losses = [(p.conj() * c).real.sum() for _ in range(2)]
    (once,) = torch.autograd.grad(losses[0], p, retain_graph=True)
    optimizer.backward(losses)
    torch.testing.assert_close(p.grad, 5 * once)


def test_a_negative_constant_is_never_turned_into_descent():
    w, h = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    ascent = moopt.Constant({"forget": -1.0, "retain": 1.0})
    alone = moopt.CommonDescent(sgd([w]), ascent)
    with pytest.raises(ValueError, match="negate the loss"):
        alone.backward({"forget": w.sum()})
    heads = moopt.CommonDescent(sgd([w, h]), ascent)
    with pytest.raises(ValueError, match=r"shared=model\.parameters"):
        heads.backward({"forget": (w * h).sum(), "retain": w.sum()})
    whole = moopt.CommonDescent(sgd([w, h]), ascent, shared=[w, h])
    whole.backward({"forget": (w * h).sum(), "retain": w.sum()})
    assert h.grad.tolist() == [-1.0, -1.0]


def test_sum_is_the_same_function_in_recorded_and_thinned_steps():
    gradients = []
    for record_every in (1, 2):
        w = torch.nn.Parameter(torch.zeros(2))
        optimizer = moopt.CommonDescent(sgd([w], lr=0.0), "sum", record_every=record_every)
        for _ in range(2):
            optimizer.zero_grad()
            optimizer.backward({"a": 1e6 * w.sum(), "b": w[0]})
            optimizer.step()
        gradients.append(w.grad - 1e6)
        assert optimizer.record.inactive == ("b",)
    assert gradients[0].tolist() == gradients[1].tolist() == [1.0, 0.0]


def test_zero_grad_inside_a_block_is_refused():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(sgd(model.parameters()))
    with pytest.raises(RuntimeError, match="before the first"), optimizer.objective("a"):
        optimizer.zero_grad()


def test_a_failing_block_does_not_leave_the_rows_of_the_others():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(sgd(model.parameters()), moopt.Sum())
    losses = model.losses(batch())
    with optimizer.objective("a", losses["a"]):
        losses["a"].backward(retain_graph=True)
    losses["b"].register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError), optimizer.objective("b", losses["b"]):
        losses["b"].backward()
    losses = model.losses(batch())
    with optimizer.objective("a", losses["a"].item()):
        losses["a"].backward()
    record = optimizer.combine_()
    assert record.losses.tolist() == [pytest.approx(losses["a"].item())]


def test_losses_that_reach_no_parameter_are_refused():
    w, v = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = moopt.CommonDescent(sgd([w]))
    with pytest.raises(ValueError, match="no loss reaches a parameter"):
        optimizer.backward({"a": v.sum(), "b": 2 * v.sum()})
    w.requires_grad_(False)
    with pytest.raises(ValueError, match="requires grad; got none"):
        optimizer.backward({"a": v.sum(), "b": 2 * v.sum()})


def test_a_failed_combination_does_not_wedge_the_optimizer():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(sgd(model.parameters()), moopt.Constant({"a": 1.0, "b": 1.0}))
    losses = model.losses(batch())
    with pytest.raises(ValueError, match="c"):
        optimizer.backward({"a": losses["a"], "c": losses["c"]})
    losses = model.losses(batch())
    assert optimizer.backward({"a": losses["a"], "b": losses["b"]}).names == ("a", "b")


def test_objectives_given_are_the_only_ones():
    model = seeded(OneOutput)
    options = {"objectives": ("a", "b")}
    optimizer = moopt.CommonDescent(sgd(model.parameters()), moopt.CRMOGM(), **options)
    with pytest.raises(ValueError, match="names a, b; got c"):
        optimizer.backward(model.losses(batch()))
    with pytest.raises(ValueError, match="names a, b; got 0, 1"):
        optimizer.backward(list(model.losses(batch()).values())[:2])
    for wrong in ("forget", ("a", "a"), ()):
        with pytest.raises(ValueError, match="distinct names"):
            moopt.CommonDescent(sgd(model.parameters()), objectives=wrong)


def test_the_state_of_another_weighting_is_refused():
    model = seeded(OneOutput)
    saved = moopt.CommonDescent(sgd(model.parameters()), moopt.CRMOGM())
    saved.backward(model.losses(batch()))
    nested = moopt.CommonDescent(sgd(model.parameters()), moopt.CRMOGM(moopt.CRMOGM()))
    with pytest.raises(ValueError, match="another weighting"):
        nested.load_state_dict(saved.state_dict())


def test_a_warm_up_from_zero_is_a_bypass_and_not_a_checkpoint():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(sgd(model.parameters(), lr=0.0), moopt.CRMOGM())
    model.losses(batch())["a"].backward()
    with pytest.warns(UserWarning, match="no objective recorded"):
        optimizer.step()
    assert optimizer.record.bypassed == 1


def test_a_shared_parameter_may_be_frozen_later():
    w, v = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = moopt.CommonDescent(sgd([w, v]), moopt.MGDA(), shared=[w, v])
    v.requires_grad_(False)
    optimizer.backward({"a": (w * v).sum(), "b": (w.square() * v).sum()})
    assert v.grad is None


def test_loading_drops_the_rows_of_a_step_in_flight():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(sgd(model.parameters()), moopt.MGDA())
    state = optimizer.state_dict()
    optimizer.backward(model.losses(batch()), accumulate=True)
    optimizer.load_state_dict(state)
    expected = moopt.CommonDescent(sgd(seeded(OneOutput).parameters()), moopt.MGDA())
    assert len(expected.param_groups) == 1
    fresh = optimizer.backward(model.losses(batch()))
    assert fresh.losses.tolist() == pytest.approx(
        [v.item() for v in model.losses(batch()).values()]
    )


def test_independent_graphs_are_freed_as_soon_as_they_are_differentiated():
    w = torch.nn.Parameter(torch.ones(4))
    optimizer = moopt.CommonDescent(sgd([w]), moopt.MGDA())
    alive, losses = [], {}
    for i in range(4):
        saved = (w * (i + 1)).exp()
        alive.append(weakref.ref(saved))
        losses[str(i)] = saved.square().sum()
        del saved
    optimizer.backward(losses)
    assert [ref() for ref in alive] == [None] * 4


def test_shared_graphs_are_found():
    w = torch.nn.Parameter(torch.ones(4))
    trunk = w.exp()
    a, b, c = trunk.sum(), trunk.square().sum(), w.square().sum()
    assert shares_graph([a, b, c]) == [True, False, False]
    assert shares_graph([a, c, b]) == [True, False, False]
    assert shares_graph([c, a]) == [False, False]
    assert shares_graph([a, a]) == [True, False]
    leaf = torch.zeros((), requires_grad=True)
    assert shares_graph([leaf, leaf]) == [False, False]


def test_rounding_is_no_conflict_and_records_have_no_made_up_gap():
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = moopt.CommonDescent(sgd([w]), moopt.Mean())
    record = optimizer.backward({"a": w[0], "b": w[1] - 1e-8 * w[0]})
    assert record.conflicts == ()
    assert "gap" not in record.as_dict()


def test_a_parameter_that_no_loss_reaches_is_left_alone():
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = moopt.CommonDescent(sgd([used, unused]), moopt.MGDA())
    optimizer.backward({"a": used.sum(), "b": (used[0] - 3 * used[1]).square()})
    optimizer.step()
    assert unused.grad is None
    assert torch.equal(unused, torch.ones(2))


def test_the_record_names_what_a_sum_raises():
    w = torch.nn.Parameter(torch.zeros(2))

    def losses():
        return {"small": w[0] + w[1], "large": w[0] - 9 * w[1], "noise": -1e-9 * w[0]}

    record = moopt.CommonDescent(sgd([w]), moopt.Sum()).backward(losses())
    assert record.raised == ("small",)
    assert "raises small" in str(record)
    record = moopt.backward(losses(), [w], moopt.MGDA())
    assert record.raised == ()
    assert "raises" not in str(record)


def test_accelerate_accumulates_through_the_functional_core():
    accelerate = pytest.importorskip("accelerate")

    def train(accumulated):
        model = seeded(OneOutput)
        optimizer = moopt.CommonDescent(sgd(model.parameters()), moopt.MGDA())
        if not accumulated:
            losses = model.losses(batch())
            optimizer.backward({n: 2 * v for n, v in losses.items()})
            optimizer.step()
            return list(model.parameters())
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        prepared, wrapped = accelerator.prepare(model, optimizer)
        for _ in range(2):
            with accelerator.accumulate(prepared):
                losses = prepared.losses(batch())
                moopt.backward(losses, wrapped, accumulate=not accelerator.sync_gradients)
                wrapped.step()
                wrapped.zero_grad()
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()
        return list(model.parameters())

    for a, b in zip(train(False), train(True), strict=True):
        torch.testing.assert_close(b, a)


def test_owners_that_are_no_parameters_are_refused():
    model = seeded(OneOutput)
    losses = model.losses(batch())
    for owner in (model, None, list(model.named_parameters())):
        with pytest.raises(TypeError, match=r"model\.parameters"):
            moopt.backward(losses, owner)
    with pytest.raises(ValueError, match="needs a CommonDescent"):
        moopt.backward(losses, sgd(model.parameters()), accumulate=True)
    with pytest.raises(ValueError, match="must be an int"):
        moopt.CommonDescent(sgd(model.parameters()), record_every=2.7)
