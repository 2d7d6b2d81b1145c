"""State of scalarizations: saved and resumed, and learned from the losses after the step."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

import moopt
from moopt.scalarizations import DWA, FAMO
from tests.optimizer.problems import batch, parameters_of
from tests.scalarizations.settings import SETTINGS
from tests.scalarizations.training import STEPS, make, train

# -------------------------------------------------------------------------------- save and resume


@pytest.mark.parametrize("objectives", [None, ("a", "b", "c")])
@pytest.mark.parametrize(
    "name", ["UW", "DWA every step", "FAMO", "IMTLL fast", "RLW", "PDU", "EUPMU"]
)
def test_save_load_resume_is_bit_equal(tmp_path, name, objectives):
    weighting = SETTINGS[name](range(3))
    model, optimizer = make(weighting=weighting, objectives=objectives)
    train(model, optimizer, 3)
    torch.save({"model": model.state_dict(), "opt": optimizer.state_dict()}, tmp_path / "ckpt.pt")
    train(model, optimizer, 3, start=3)
    loaded = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    resumed, other = make(weighting=weighting, objectives=objectives)
    resumed.load_state_dict(loaded["model"])
    other.load_state_dict(loaded["opt"])
    train(resumed, other, 3, start=3)
    for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True):
        assert torch.equal(a, b)
    fresh, forgetful = make(weighting=weighting)
    fresh.load_state_dict(loaded["model"])
    train(fresh, forgetful, 3, start=3)  # without the state the path is another one
    assert any(
        not torch.equal(a, b)
        for a, b in zip(parameters_of(model), parameters_of(fresh), strict=True)
    )


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_pickle_and_deepcopy_keep_the_state(copier):
    model, optimizer = make(weighting=DWA(steps_per_epoch=1))
    train(model, optimizer, 3)
    other_model, other = copier((model, optimizer))
    train(model, optimizer, 2, start=3)
    train(other_model, other, 2, start=3)
    for a, b in zip(parameters_of(model), parameters_of(other_model), strict=True):
        assert torch.equal(a, b)


# --------------------------------------------------------------------------------------- observe


def test_famo_by_hand_and_through_the_optimizer():
    model, optimizer = make(weighting=FAMO(lr=0.1), dtype=torch.float64)
    weighting, state = FAMO(lr=0.1), None
    for step in range(STEPS):
        x = batch(step, dtype=torch.float64)
        optimizer.zero_grad()
        losses = model.losses(x)
        record = optimizer.backward(losses)
        given = moopt.StepStatistics(
            gramian=torch.eye(3), losses=torch.stack(list(losses.values())).detach()
        )
        weights, state, _ = weighting(given, state)
        torch.testing.assert_close(record.weights, weights)
        optimizer.step()
        after = model.losses(x)
        optimizer.observe(after)
        state = weighting.observe(state, torch.stack(list(after.values())).detach())
    assert float((record.weights - FAMO()(given).weights).abs().max()) > 1e-3


def test_observe_without_a_use_for_it_or_of_another_step_is_refused():
    model, optimizer = make()
    train(model, optimizer, 1)
    with pytest.raises(TypeError, match="STCH does not learn from the losses after the step"):
        optimizer.observe(model.losses(batch()))
    model, optimizer = make(weighting=FAMO())
    with pytest.raises(ValueError, match="combined nothing; got a, b, c"):
        optimizer.observe(model.losses(batch()))
    losses = model.losses(batch())
    optimizer.backward({"a": losses["a"], "b": losses["b"]})
    optimizer.step()
    with pytest.raises(ValueError, match="combined a, b; got c"):
        optimizer.observe({"c": losses["c"]})
    optimizer.observe({"a": losses["a"].detach()})


def test_a_famo_that_is_never_shown_the_losses_warns_once():
    model, optimizer = make(weighting=FAMO())

    def step():
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch()))
        optimizer.step()

    step()
    with pytest.warns(UserWarning, match=r"call\s+optimizer\.observe"):
        step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step()
        optimizer.observe(model.losses(batch()))
        step()


def test_the_functional_core_refuses_a_method_that_observes():
    model, _ = make()
    with pytest.raises(ValueError, match=r"Use moopt\.CommonDescent and its observe"):
        moopt.backward(model.losses(batch()), model.parameters(), FAMO(), state={})


def test_a_modifier_passes_the_losses_on():
    model, optimizer = make(weighting=moopt.CRMOGM(FAMO(lr=0.1), momentum=0.0))
    train(model, optimizer)
    logits = optimizer.param_groups[0]["moopt_state_weighting.logits"]
    assert (logits != 0).all()
