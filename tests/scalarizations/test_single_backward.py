"""A scalarization in CommonDescent: one backward pass, and training on the scalar itself."""

from __future__ import annotations

import pytest
import torch

import moopt
from moopt import scalarizations
from moopt.scalarizations import (
    GLS,
    IMTLL,
    PBI,
    RLW,
    STCH,
    UW,
    AugmentedTchebycheff,
)
from tests.optimizer.problems import OneOutput, TwoHeads, batch, parameters_of, seeded
from tests.scalarizations.settings import DEFAULTS, SETTINGS
from tests.scalarizations.training import STEPS, make, train

TRAJECTORY_RTOL = 1e-10
"""float64 trajectories of two ways to one gradient, a few roundings apart per step."""


# ----------------------------------------------------------------------------- one backward pass


class CountedLinear(torch.autograd.Function):
    """The identity, counting its backward passes."""

    passes = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        CountedLinear.passes += 1
        return grad


def passes_of(weighting, way="backward") -> int:
    model, optimizer = make(TwoHeads, weighting)
    plain = model.trunk.forward
    model.trunk.forward = lambda x: CountedLinear.apply(plain(x))
    CountedLinear.passes = 0
    if way == "backward":
        optimizer.backward(model.losses(batch()))
        optimizer.step()
    elif way == "functional":
        moopt.backward(model.losses(batch()), optimizer.optimizer, weighting, state={})
    elif way == "accumulate":
        optimizer.backward(model.losses(batch()), accumulate=True)
        optimizer.backward(model.losses(batch(1)))
    else:
        optimizer.step(lambda: model.losses(batch()))
    return CountedLinear.passes


@pytest.mark.parametrize("name", SETTINGS)
def test_one_pass_for_all_objectives(name):
    weighting = SETTINGS[name](range(2))
    assert passes_of(weighting) == 1
    assert passes_of(weighting, "closure") == 1
    if not weighting.observes:
        assert passes_of(weighting, "functional") == 1


def test_the_count_sees_the_passes_of_a_weighting_and_of_micro_batches():
    assert passes_of(moopt.MGDA()) == 2
    assert passes_of(moopt.MGDA(), "functional") == 2
    assert passes_of(STCH(), "accumulate") == 4  # rows: the weights are known at the end only


# ------------------------------------------------------------- the same as training on the scalar

PLAIN = {
    "STCH": (STCH(mu=0.2), lambda x: scalarizations.stch(x, mu=0.2)),
    "PBI": (PBI(theta=0.5), lambda x: scalarizations.pbi(x, theta=0.5)),
    "GLS": (GLS(), scalarizations.gls),
    "AugmentedTchebycheff": (AugmentedTchebycheff(), scalarizations.augmented_tchebycheff),
}


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("cls", [OneOutput, TwoHeads])
@pytest.mark.parametrize("name", PLAIN)
def test_the_trajectory_is_training_on_the_scalar(name, cls, base):
    weighting, scalar = PLAIN[name]
    model, optimizer = make(cls, weighting, base, torch.float64)
    train(model, optimizer, dtype=torch.float64)
    plain = seeded(cls, dtype=torch.float64)
    reference = base(plain.parameters(), lr=0.05)
    for step in range(STEPS):
        reference.zero_grad()
        losses = plain.losses(batch(step, dtype=torch.float64))
        scalar(torch.stack(list(losses.values()))).backward()
        reference.step()
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        torch.testing.assert_close(b, a, rtol=TRAJECTORY_RTOL, atol=TRAJECTORY_RTOL)


def test_another_scalar_is_another_trajectory():
    """The comparison above can fail."""
    model, optimizer = make(OneOutput, STCH(mu=0.2), dtype=torch.float64)
    train(model, optimizer, dtype=torch.float64)
    other, optimizer = make(OneOutput, STCH(mu=0.3), dtype=torch.float64)
    train(other, optimizer, dtype=torch.float64)
    gap = max(
        float((a - b).abs().max())
        for a, b in zip(parameters_of(model), parameters_of(other), strict=True)
    )
    assert gap > 1e4 * TRAJECTORY_RTOL


@pytest.mark.parametrize("key", ["UW", "IMTLL"])
def test_learned_scales_are_joint_training(key):
    weighting, function = {
        "UW": (UW(lr=0.2), scalarizations.uw),
        "IMTLL": (IMTLL(lr=0.2), scalarizations.imtl_l),
    }[key]
    model, optimizer = make(TwoHeads, weighting, dtype=torch.float64)
    train(model, optimizer, dtype=torch.float64)
    plain = seeded(TwoHeads, dtype=torch.float64)
    learned = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    groups = [{"params": plain.parameters()}, {"params": [learned], "lr": 0.2}]
    reference = torch.optim.SGD(groups, lr=0.05)
    for step in range(STEPS):
        reference.zero_grad()
        losses = plain.losses(batch(step, dtype=torch.float64))
        function(torch.stack(list(losses.values())), learned).backward()
        reference.step()
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        torch.testing.assert_close(b, a, rtol=TRAJECTORY_RTOL, atol=TRAJECTORY_RTOL)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("cls", [OneOutput, TwoHeads])
def test_rows_give_the_same_step_as_the_single_pass(name, cls):
    """objective + combine_, heads included: another way to the same direction."""

    def run(way):
        m = len(seeded(cls).losses(batch()))
        model, optimizer = make(cls, SETTINGS[name](range(m)), dtype=torch.float64)
        for step in range(3):
            optimizer.zero_grad()
            losses = model.losses(batch(step, dtype=torch.float64))
            if way == "rows":
                for key, loss in losses.items():
                    with optimizer.objective(key, loss):
                        loss.backward(retain_graph=True)
                optimizer.combine_()
            else:
                optimizer.backward(losses)
            optimizer.step()
            if optimizer.weighting.observes:
                optimizer.observe(losses)
        return parameters_of(model), optimizer.record

    (single, short), (rows, full) = run("single"), run("rows")
    for a, b in zip(single, rows, strict=True):
        torch.testing.assert_close(b, a, rtol=TRAJECTORY_RTOL, atol=TRAJECTORY_RTOL)
    torch.testing.assert_close(short.weights, full.weights)
    assert (short.measured, full.measured) == (False, True)


def test_micro_batches_weigh_the_summed_losses():
    whole, optimizer = make(TwoHeads, STCH(), dtype=torch.float64)
    x = batch(dtype=torch.float64)
    optimizer.backward(whole.losses(x))
    parts, pieces = make(TwoHeads, STCH(), dtype=torch.float64)
    for i, part in enumerate(x.chunk(4)):
        halves = {name: loss / 4 for name, loss in parts.losses(part).items()}
        record = pieces.backward(halves, accumulate=i < 3)
    torch.testing.assert_close(record.weights, optimizer.record.weights, rtol=1e-9, atol=0)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-12)


def test_an_objective_at_its_noise_floor_keeps_its_weight():
    """The noise floor is about gradients, which a scalarization never sees."""
    model, optimizer = make(OneOutput, UW(lr=0.0))
    losses = model.losses(batch())
    losses["c"] = losses["c"].detach() + 1e-9 * losses["c"]
    for name, loss in losses.items():
        with optimizer.objective(name, loss):
            loss.backward(retain_graph=True)
    record = optimizer.combine_()
    assert record.inactive == ("c",)
    assert record.weights.tolist() == [0.5] * 3


@pytest.mark.parametrize("name", DEFAULTS)
def test_one_objective_is_bit_for_bit_the_base_optimizer(name):
    plain = seeded(OneOutput)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.05)
    model, optimizer = make(OneOutput, DEFAULTS[name](range(3)), torch.optim.AdamW)
    model.losses = lambda x: {"a": OneOutput.losses(model, x)["a"]}
    for step in range(STEPS):
        reference.zero_grad()
        plain.losses(batch(step))["a"].backward()
        reference.step()
    train(model, optimizer)
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        assert torch.equal(a, b)
    assert optimizer.record.weights.tolist() == [1.0]


def test_gradients_already_there_are_added_to():
    model, optimizer = make()
    other, alone = make()
    alone.backward(other.losses(batch()))
    sum(p.square().sum() for p in model.parameters()).backward()
    regulariser = [p.grad.clone() for p in model.parameters()]
    optimizer.backward(model.losses(batch()))
    for p, q, r in zip(model.parameters(), other.parameters(), regulariser, strict=True):
        torch.testing.assert_close(p.grad, q.grad + r)


def test_losses_that_reach_no_parameter_are_refused():
    _, optimizer = make()
    stranger = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="no loss reaches a parameter"):
        optimizer.backward({"a": stranger * 2, "b": stranger * 3})


# ------------------------------------------------------------------------------------ the record


def test_the_record_is_honest_about_what_was_not_measured():
    model, optimizer = make()
    losses = model.losses(batch())
    record = optimizer.backward(losses)
    assert record.names == ("a", "b", "c")
    torch.testing.assert_close(record.losses, torch.stack(list(losses.values())).detach().double())
    assert torch.isfinite(record.weights).all()
    for unknown in (record.gramian, record.norms, record.cosines, record.stationarity_value):
        assert torch.isnan(unknown).all()
    for name in ("conflicts", "raised"):
        with pytest.raises(RuntimeError, match=f"`{name}` is unknown"):
            getattr(record, name)
    assert not bool(record.descent)
    assert record.status is moopt.SolverStatus.CONVERGED
    logged = record.as_dict()
    assert set(logged) == {
        *(f"{kind}/{name}" for kind in ("loss", "weight") for name in "abc"),
        *("status", "fell_back", "fallbacks", "bypassed", "step"),
    }
    assert all(value == value for value in logged.values())
    assert "one backward pass: conflicts not measured" in str(record)
    assert "conflict " not in str(record)
    optimizer.step()
    assert optimizer.record.bypassed == 0


def test_a_pass_that_fails_is_no_step():
    model, optimizer = make(weighting=UW(lr=0.5))
    train(model, optimizer, 1)
    before = optimizer.param_groups[0]["moopt_state_log_variances"].clone()
    optimizer.zero_grad()
    losses = model.losses(batch())
    losses["b"].register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.backward(losses)
    assert torch.equal(optimizer.param_groups[0]["moopt_state_log_variances"], before)
    optimizer.zero_grad()
    assert optimizer.backward(model.losses(batch())).step == 1


def test_record_every_keeps_the_record_and_counts_every_step():
    model, optimizer = make(record_every=3)
    train(model, optimizer, 5)
    assert optimizer.record.step == 3
    train(model, optimizer, 2, start=5)
    assert optimizer.record.step == 6


def test_non_finite_losses_reach_grad_and_leave_the_state():
    model, optimizer = make(weighting=UW(lr=0.5))
    train(model, optimizer, 1)
    before = optimizer.param_groups[0]["moopt_state_log_variances"].clone()
    optimizer.zero_grad()
    losses = model.losses(batch())
    losses["a"] = losses["a"] * float("inf")
    record = optimizer.backward(losses)
    assert record.status is moopt.SolverStatus.NON_FINITE
    assert record.weights.tolist() == [1 / 3] * 3
    assert not all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.equal(optimizer.param_groups[0]["moopt_state_log_variances"], before)


# ---------------------------------------------------------------------------------------- scaler


@pytest.mark.parametrize("weighting", [STCH(), UW(), RLW()], ids=lambda w: w.name)
def test_a_scaler_changes_neither_weights_nor_trajectory(weighting):
    plain, reference = make(weighting=weighting)
    model, optimizer = make(weighting=weighting)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for step in range(STEPS):
        reference.zero_grad()
        expected = reference.backward(plain.losses(batch(step)))
        reference.step()
        optimizer.zero_grad()
        record = optimizer.backward(model.losses(batch(step)), scaler=scaler)
        assert torch.equal(record.weights, expected.weights)
        scale = scaler.get_scale()
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad * scale)
        scaler.step(optimizer)
        scaler.update()
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        assert torch.equal(a, b)


def test_a_scaler_skips_a_step_that_overflowed():
    model, optimizer = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    before = parameters_of(model)
    losses = model.losses(batch())
    losses["b"] = losses["b"] * float("inf")
    optimizer.backward(losses, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters_of(model), strict=True))
    assert scaler.get_scale() == 2.0**15


# --------------------------------------------------------------------------------- closure, names


def test_lbfgs_minimises_the_weighted_sum_of_the_first_evaluation():
    model = seeded(TwoHeads, dtype=torch.float64)  # heads are weighted too: nothing to warn about
    base = torch.optim.LBFGS(model.parameters(), max_iter=4, line_search_fn="strong_wolfe")
    optimizer = moopt.CommonDescent(base, STCH())
    x = batch(dtype=torch.float64)
    evaluations = []

    def closure():
        losses = model.losses(x)
        evaluations.append([v.item() for v in losses.values()])
        return losses

    returned = optimizer.step(closure)
    weights = optimizer.record.weights
    assert len(evaluations) > 1
    torch.testing.assert_close(returned, weights @ torch.tensor(evaluations[0]).double())
    after = weights @ torch.stack(list(model.losses(x).values())).detach()
    assert after < returned

    plain = seeded(TwoHeads, dtype=torch.float64)
    reference = torch.optim.LBFGS(plain.parameters(), max_iter=4, line_search_fn="strong_wolfe")

    def summed():
        reference.zero_grad()
        total = weights @ torch.stack(list(plain.losses(x).values()))
        total.backward()
        return total

    reference.step(summed)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-10)


def test_objectives_come_and_go_with_state_by_name():
    model, optimizer = make(weighting=IMTLL(lr=0.1), dtype=torch.float64)
    scales = {}

    def step(names, seed):
        optimizer.zero_grad()
        losses = model.losses(batch(seed, dtype=torch.float64))
        record = optimizer.backward({n: losses[n] for n in names})
        optimizer.step()
        expected = [torch.tensor(scales.get(n, 0.0)).exp().item() for n in names]
        assert record.weights.tolist() == pytest.approx(expected, rel=1e-6)
        for n in names:
            previous = scales.get(n, 0.0)
            slope = torch.tensor(previous).exp().item() * losses[n].item() - 1
            scales[n] = previous - 0.1 * slope

    step("ab", 0)
    step("cb", 1)  # `a` is absent, `c` is new
    step("ca", 2)  # `a` finds the scale of the first step
    step("abc", 3)


def test_a_preference_by_name_follows_objectives_that_come_and_go():
    model, optimizer = make(weighting=STCH(preference={"a": 1.0, "b": 2.0, "c": 0.0}, mu=1e6))
    for names in ("ab", "ca", "abc"):
        optimizer.zero_grad()
        losses = model.losses(batch())
        record = optimizer.backward({n: losses[n] for n in names})
        expected = [{"a": 1.0, "b": 2.0, "c": 0.0}[n] / len(names) for n in names]
        assert record.weights.tolist() == pytest.approx(expected, rel=1e-4)
        optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(ValueError, match=r"\['d'\] are missing"):
        optimizer.backward({"a": losses["a"], "d": losses["b"]})


@pytest.mark.parametrize("spelling", ["stch", "augmented_tchebycheff", "IMTLL", "imtl-l", "famo"])
def test_names_resolve_to_scalarizations(spelling):
    optimizer = make(weighting=spelling)[1]
    assert isinstance(optimizer.weighting, scalarizations.Scalarization)
    with pytest.raises(ValueError, match=r"MGDA.*STCH"):
        make(weighting="tchebychev")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_dtype(name, dtype):
    model, optimizer = make(weighting=DEFAULTS[name](range(3)), dtype=dtype)
    train(model, optimizer, 3, dtype=dtype)
    assert optimizer.record.weights.dtype == torch.float64
    assert all(p.grad.dtype == dtype and torch.isfinite(p).all() for p in model.parameters())
