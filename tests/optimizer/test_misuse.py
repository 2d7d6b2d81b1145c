"""What went wrong in silence, each by its kind: it is right now, or one clear refusal."""

from __future__ import annotations

import copy
import math
import typing
import warnings

import pytest
import torch
import torch.utils.checkpoint
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import moopt
from tests.optimizer.problems import OneOutput, batch, linear, seeded, sgd, two_losses

NAN = float("nan")


# ------------------------------------------------------------------------------------ torch's hooks


def test_hooks_of_all_optimizers_run_once_and_own_hooks_too():
    parameter = torch.nn.Parameter(torch.ones(1))
    calls = []
    optimizer = sgd([parameter])
    handles = [
        register_optimizer_step_pre_hook(lambda o, a, k: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda o, a, k: calls.append("global post")),
        optimizer.register_step_pre_hook(lambda o, a, k: calls.append("own pre")),
        optimizer.register_step_post_hook(lambda o, a, k: calls.append("own post")),
    ]
    try:
        optimizer.backward({"l": 2.0 * parameter.sum()})
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(calls) == ["global post", "global pre", "own post", "own pre"]


def test_a_hook_may_replace_the_closure():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = sgd([parameter])
    closure = lambda: {"l": parameter.sum()}  # noqa: E731
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, closure), {}))
    assert optimizer.step().item() == 1.0
    assert parameter.item() == pytest.approx(0.9)


def test_a_refused_distributed_checkpoint_leaves_the_learning_rate():
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net, x = linear()
    weighting = moopt.CRMOGM(moopt.MGDA())
    optimizer = moopt.CommonDescent(torch.optim.AdamW(net.parameters(), lr=0.1), weighting)
    with pytest.raises(RuntimeError, match="pass objectives="):
        get_optimizer_state_dict(net, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1
    optimizer.zero_grad()
    optimizer.backward(two_losses(net, x))
    optimizer.step()
    optimizer.state_dict()  # the state exists now


# ------------------------------------------------------------------------------------- the closure


def test_a_closure_that_calls_backward_is_refused():
    net, x = linear()

    def torchs_own():
        losses = two_losses(net, x)
        losses["a"].backward()
        return losses

    with pytest.raises(RuntimeError, match="must not call backward"):
        sgd(net.parameters()).step(torchs_own)


@pytest.mark.parametrize("returned", ["one scalar", "nothing"])
def test_what_a_closure_must_return_is_said(returned):
    net, x = linear()
    value = two_losses(net, x)["a"] if returned == "one scalar" else None
    optimizer = moopt.CommonDescent(torch.optim.LBFGS(net.parameters()))
    with pytest.raises(ValueError, match=f"must return the losses by name.* got {returned}"):
        optimizer.step(lambda: value)


# --------------------------------------------------------------------------- losses that are absent


def test_a_loss_of_another_model_is_refused_by_name():
    net, x = linear()
    other, _ = linear()
    optimizer = sgd(net.parameters())

    def losses():
        return two_losses(net, x) | {"stranger": other(x).square().mean()}

    with pytest.raises(ValueError, match="loss 'stranger' reaches no parameter"):
        optimizer.backward(losses())
    with pytest.raises(ValueError, match="'stranger' reaches no parameter"):
        moopt.backward(losses(), net.parameters())
    with pytest.raises(RuntimeError, match="no gradient arrived"), optimizer.objective("stranger"):
        other(x).square().mean().backward()
    assert all(p.grad is None for p in net.parameters())


def test_an_absent_objective_is_told_to_be_left_out():
    net, x = linear()
    with pytest.raises(ValueError, match="leave it out of the losses"):
        sgd(net.parameters()).backward(two_losses(net, x) | {"c": torch.tensor(0.0)})


def test_wrapping_twice_is_named():
    net, _ = linear()
    with pytest.raises(TypeError, match="got a CommonDescent"):
        moopt.CommonDescent(sgd(net.parameters()))


# ------------------------------------------------------------------------------------ accumulation


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("way", ["backward", "objective"])
def test_clearing_the_models_gradients_clears_an_unfinished_accumulation(way, set_to_none):
    def run(interrupted):
        net, x = linear()
        optimizer = sgd(net.parameters())

        def micro_batch(rows, last):
            losses = two_losses(net, rows)
            if way == "backward":
                optimizer.backward(losses, accumulate=not last)
                return
            for name, loss in losses.items():
                with optimizer.objective(name, loss):
                    loss.backward(retain_graph=True)
            if last:
                optimizer.combine_()

        if interrupted:
            micro_batch(x[:4] + 1.0, last=False)
            net.zero_grad(set_to_none=set_to_none)
        micro_batch(x[:4], last=False)
        micro_batch(x[4:], last=True)
        return [p.grad for p in net.parameters()], optimizer.record

    (plain, record), (interrupted, other) = run(False), run(True)
    torch.testing.assert_close(interrupted, plain, rtol=0, atol=0)
    torch.testing.assert_close(other.losses, record.losses, rtol=0, atol=0)


def test_gradients_that_were_there_before_an_accumulation_stay():
    net, x = linear()
    optimizer = sgd(net.parameters())
    net.bias.grad = torch.ones(2)
    optimizer.backward(two_losses(net, x), accumulate=True)
    assert torch.equal(net.bias.grad, torch.ones(2))
    optimizer.zero_grad()
    assert net.bias.grad is None


# --------------------------------------------------------------------------------- scales of losses


@pytest.mark.parametrize("way", ["backward", "objective"])
@pytest.mark.parametrize("told", [True, False])
def test_scaled_losses_without_the_scaler_are_refused(way, told):
    net, x = linear()
    optimizer, scaler = sgd(net.parameters()), torch.amp.GradScaler("cpu")
    given = scaler if told else None
    losses = two_losses(net, x)
    if way == "backward":
        scaled = losses if told else {n: scaler.scale(loss) for n, loss in losses.items()}
        optimizer.backward(scaled, scaler=given)
    else:
        for name, loss in losses.items():
            with optimizer.objective(name, loss):
                scaler.scale(loss).backward(retain_graph=True)
        optimizer.combine_(scaler=given)
    if told:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scaler.step(optimizer)
        return
    scaler.scale(torch.zeros(()))  # so that the scaler has its factor
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match="was divided by 65536"):
        scaler.step(optimizer)
    assert all(map(torch.equal, before, net.parameters()))
    optimizer.zero_grad()
    scaler.update()
    optimizer.backward(two_losses(net, x), scaler=scaler)
    scaler.step(optimizer)
    assert not all(map(torch.equal, before, net.parameters()))


def test_a_direction_divided_by_hand_is_warned_of():
    net, x = linear()
    optimizer, scaler = sgd(net.parameters()), torch.amp.GradScaler("cpu")
    optimizer.backward({n: scaler.scale(loss) for n, loss in two_losses(net, x).items()})
    scaler.unscale_(optimizer)
    with pytest.warns(UserWarning, match="was divided by 65536"):
        optimizer.step()


def test_clipping_is_not_taken_for_a_scaler():
    net, x = linear()
    optimizer = sgd(net.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bound in (1e-6, 1e-3, 0.5):
            optimizer.zero_grad()
            optimizer.backward(two_losses(net, x))
            torch.nn.utils.clip_grad_norm_(net.parameters(), bound)
            optimizer.step()


def test_a_small_objective_is_not_noise():
    """In units a millionth as large it takes the step that it takes in its own."""

    def run(factor):
        net, x = linear()
        optimizer = sgd(net.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            y = net(x)
            losses = {"a": (y[:, 0] - 1).square().mean(), "b": (y.sum(1) + 1).square().mean()}
            optimizer.backward({"a": losses["a"], "b": factor * losses["b"]})
            optimizer.step()
        return float(losses["b"].detach()), optimizer.record.inactive

    small, inactive = run(1e-6)
    plain, _ = run(1.0)
    assert inactive == ()
    assert small == pytest.approx(plain, rel=1e-3, abs=1e-9)


def noisy_losses(net, x, reference, floor):
    """A divergence at its reference and a loss at a minimum that is not zero: both are rounding."""
    y = net(x)
    kl = torch.nn.functional.kl_div(
        y.log_softmax(-1), reference(x).log_softmax(-1).detach(), log_target=True,
        reduction="batchmean",
    )  # fmt: skip
    return {"a": y[:, 0].square().mean(), "kl": kl, "floor": 2.0 + floor * y[:, 1].square().mean()}


def test_a_divergence_at_its_reference_and_a_loss_at_its_minimum_are_noise():
    net, x = linear()
    reference = copy.deepcopy(net)
    record = sgd(net.parameters()).backward(noisy_losses(net, x, reference, 1e-7))
    assert set(record.inactive) == {"kl", "floor"}


def test_an_objective_that_is_always_inactive_is_named_once():
    net, x = linear()
    optimizer = sgd(net.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(45):
            optimizer.zero_grad()
            y = net(x)
            optimizer.backward({"a": y[:, 0].exp().mean(), "floor": 2.0 + 1e-9 * y[:, 1].mean()})
            optimizer.step()
    told = [str(one.message) for one in caught]
    assert len(told) == 1
    assert "objective 'floor' was left out of 20 steps in a row" in told[0]
    assert caught[0].filename == __file__  # not a line of moopt's


@pytest.mark.parametrize(("mu", "warned"), [(0.1, ["small"]), (50.0, [])])
def test_a_loss_that_stch_never_weighs_is_named_once(mu, warned):
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting=moopt.scalarizations.STCH(mu=mu))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(45):
            optimizer.zero_grad()
            y = net(x).square().mean(dim=0)
            optimizer.backward({"small": 0.01 * y[0], "large": 70.0 + y[1]})
            optimizer.step()
    assert [str(one.message).split("'")[1] for one in caught] == warned


# ------------------------------------------------------------------------------------ not a number


def nan_without_gradient(net, x):
    """What cross-entropy gives where every label is ignored: NaN, with gradients of zero."""
    labels = torch.full((len(x),), -100)
    return torch.nn.functional.cross_entropy(net(x), labels)


@pytest.mark.parametrize("weighting", [None, "upgrad", "stch", "grad_norm", "sum"])
def test_a_loss_of_nan_is_one_rule(weighting):
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting=weighting)
    record = optimizer.backward(two_losses(net, x) | {"empty": nan_without_gradient(net, x)})
    assert record.status is moopt.SolverStatus.NON_FINITE
    uniform = 1.0 if weighting == "sum" else 1 / 3
    assert record.weights.tolist() == pytest.approx([uniform] * 3)
    assert not record.descent
    assert "share no parameter" not in str(record)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("weighting", [None, "upgrad", "grad_norm"])
def test_objectives_that_are_not_finite_may_be_left_out(weighting, kind):
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting=weighting, skip_non_finite=True)
    plain = sgd(copy.deepcopy(net).parameters(), weighting=weighting)
    bad = nan_without_gradient(net, x) if kind == "loss" else net(x).sum() * math.inf
    record = optimizer.backward(two_losses(net, x) | {"bad": bad})
    expected = plain.backward(two_losses_of(plain, x))
    assert record.names == ("a", "b")
    assert record.left_out == ("bad",)
    assert record.skipped == 1
    assert record.as_dict()["skipped"] == record.as_dict()["left_out/bad"] == 1.0
    assert "left out, not finite: bad" in str(record)
    torch.testing.assert_close(record.weights, expected.weights, rtol=0, atol=0)
    optimizer.step()
    assert all(p.isfinite().all() for p in net.parameters())


def two_losses_of(optimizer, x):
    weight, bias = optimizer.param_groups[0]["params"]
    return two_losses(lambda rows: rows @ weight.T + bias, x)


def test_where_no_objective_is_finite_none_is_left_out():
    net, x = linear()
    record = sgd(net.parameters(), skip_non_finite=True).backward(
        {"a": nan_without_gradient(net, x), "b": nan_without_gradient(net, x)}
    )
    assert record.left_out == ()
    assert record.status is moopt.SolverStatus.NON_FINITE


# ----------------------------------------------------------------------------- dependent gradients


@pytest.mark.parametrize(
    "weighting", [moopt.ConFIG(), moopt.DualSpaceMGDA(), moopt.IMTLG(), moopt.MGDA(), "upgrad"]
)
@pytest.mark.parametrize("mix", ["a + b", "more losses than parameters"])
def test_dependent_float32_gradients_still_find_the_descent_direction(weighting, mix):
    for seed in range(3, 6):
        torch.manual_seed(seed)
        w = torch.nn.Parameter(torch.zeros(5000 if mix == "a + b" else 4))
        if mix == "a + b":
            base = torch.randn_like(w)
            parts = [base + 0.9 * torch.randn_like(w) for _ in range(2)]
            parts.append(parts[0] + parts[1])
        else:
            parts = [0.5 + 0.3 * torch.randn_like(w) for _ in range(8)]
        losses = {str(i): (part * w).sum() for i, part in enumerate(parts)}
        record = sgd([w], weighting=weighting).backward(losses)
        assert record.descent, str(record)
        assert float(w.grad.norm()) > 0


def test_records_cannot_be_changed():
    model = seeded(OneOutput)
    record = sgd(model.parameters()).backward(model.losses(batch()))
    with pytest.raises(AttributeError):
        record.step = 3


def test_losses_that_share_nothing_say_so():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    record = sgd([a, b]).backward({"a": a.square().sum(), "b": b.square().sum()})
    assert "the losses share no parameter" in str(record)


def test_a_step_that_combines_is_typed_as_a_record():
    whole, some = typing.get_overloads(moopt.CommonDescent.backward)
    assert typing.get_type_hints(whole)["return"] == moopt.StepRecord
    assert typing.get_type_hints(some)["return"] == moopt.StepRecord | None


# ------------------------------------------------------------- losses alone, in a single pass


@pytest.mark.parametrize("weighting", ["uw", "stch"])
def test_a_scalarization_refuses_a_loss_of_another_model(weighting):
    net, x = linear()
    stranger = torch.nn.Parameter(torch.ones(2))
    losses = two_losses(net, x) | {"c": stranger.square().sum()}
    with pytest.raises(ValueError, match="loss 'c' reaches no parameter"):
        sgd(net.parameters(), weighting=weighting).backward(losses)
    assert stranger.grad is None


def test_a_scalarization_trusts_a_checkpoint_that_hides_its_parameters():
    net, x = linear()
    x.requires_grad_()
    hidden = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=True)
    sgd(net.parameters(), weighting="stch").backward(two_losses(lambda _: hidden, x))
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("method", ["random", "pcgrad", "gradvac", "rlw", "grad_drop"])
def test_draws_of_an_earlier_version_are_refused(method):
    net, x = linear()
    optimizer = sgd(net.parameters(), weighting=method)
    optimizer.backward(two_losses(net, x))
    optimizer.step()
    saved = optimizer.state_dict()
    resumed = sgd(net.parameters(), weighting=method)
    resumed.load_state_dict(saved)
    resumed.backward(two_losses(net, x))
    resumed.zero_grad()
    # As c41d9c8 saved it: nothing says what the numbers came from.
    del saved["param_groups"][0]["moopt_draws"]
    with pytest.raises(ValueError, match="drew other random numbers"):
        resumed.load_state_dict(saved)
