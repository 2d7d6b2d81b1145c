"""Aggregators that keep rows: over steps, resumed, in any dtype."""

from __future__ import annotations

import io

import pytest
import torch

import moopt
from moopt.aggregators import (
    DBMTLWithEMA,
    ExcessMTL,
    GradientEMA,
    MConFIG,
    MoCo,
    TrackingAggregator,
)
from tests.aggregators.tracking import METHODS, OF_THE_STEP, RTOL, flat_gradient, make, train
from tests.optimizer.problems import (
    OneOutput,
    TwoHeads,
    batch,
    jacobian,
    parameters_of,
    seeded,
)

# -------------------------------------------------------------------- the step and what it keeps


@pytest.mark.parametrize("name", METHODS)
def test_every_way_in_is_the_same_step(name):
    def run(way):
        model, optimizer = make(METHODS[name])
        state: dict = {}
        for step in range(2):
            optimizer.zero_grad()
            losses = model.losses(batch(step, dtype=torch.float64))
            if way == "backward":
                optimizer.backward(losses)
            elif way == "functional":
                moopt.backward(losses, model.parameters(), METHODS[name], state=state)
            else:
                for key, loss in losses.items():
                    with optimizer.objective(key, loss):
                        loss.backward(retain_graph=True)
                optimizer.combine_()
            if way == "functional":
                optimizer.optimizer.step()
            else:
                optimizer.step()
        return parameters_of(model)

    for way in ("objective", "functional"):
        for a, b in zip(run("backward"), run(way), strict=True):
            torch.testing.assert_close(a, b, rtol=RTOL, atol=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_save_load_resume_is_bit_equal(name, base):
    model, optimizer = make(METHODS[name], base=base, dtype=torch.float32)
    train(model, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    train(model, optimizer, range(3, 5))
    resumed, other = make(METHODS[name], base=base, dtype=torch.float32)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    resumed.load_state_dict(weights)
    other.load_state_dict(state)
    train(resumed, other, range(3, 5))
    for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True):
        assert torch.equal(a, b)
    fresh, forgetful = make(METHODS[name], base=base, dtype=torch.float32)
    fresh.load_state_dict(weights)
    forgetful.optimizer.load_state_dict(
        {"state": state["state"], "param_groups": forgetful.state_dict()["param_groups"]}
    )
    train(fresh, forgetful, range(3, 5))  # without its rows: another path
    assert not all(
        torch.equal(a, b) for a, b in zip(parameters_of(model), parameters_of(fresh), strict=True)
    )


def test_the_state_of_another_method_is_refused():
    model, optimizer = make(MoCo())
    train(model, optimizer, range(1))
    _, other = make(DBMTLWithEMA())
    with pytest.raises(ValueError, match=r"another weighting.*that of MoCo"):
        other.load_state_dict(optimizer.state_dict())
    wider = seeded(TwoHeads, dtype=torch.float64)
    third = moopt.CommonDescent(torch.optim.SGD(wider.parameters(), lr=0.1), MoCo())
    with pytest.raises(ValueError, match="parameter group"):
        third.load_state_dict(optimizer.state_dict())


def test_rows_of_another_model_are_refused():
    small, optimizer = make(MoCo())
    train(small, optimizer, range(1))
    group = optimizer.param_groups[0]
    group["moopt_rows_average_0"] = group["moopt_rows_average_0"][:, :2]
    with pytest.raises(ValueError, match=r"shape \[2, 3\]; the parameter has \[5, 3\]"):
        train(small, optimizer, range(1, 2))


@pytest.mark.parametrize("name", METHODS)
def test_absent_objectives_keep_their_rows_and_late_ones_start_at_zero(name):
    model, optimizer = make(METHODS[name])
    key = f"moopt_rows_{METHODS[name].row_name}_0"
    train(model, optimizer, range(2), names=("a", "b"))
    before = optimizer.param_groups[0][key].clone()
    assert len(before) == 2
    train(model, optimizer, range(2, 3), names=("c", "a"))
    after = optimizer.param_groups[0][key]
    assert len(after) == 3
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])
    assert float(after[2].abs().max()) > 0
    assert optimizer.record.names == ("c", "a")
    assert float(optimizer.record.weights.abs().min()) > 0


@pytest.mark.parametrize("name", OF_THE_STEP)
def test_an_inactive_objective_has_no_say_and_keeps_its_row(name):
    """Weight 0; its row, and the others' step, as if it were not there."""

    def step(with_noise):
        model, optimizer = make(METHODS[name])
        losses = model.losses(batch(dtype=torch.float64))
        if with_noise:
            losses["noise"] = 1.0 - 1e-9 * losses["a"]
        record = optimizer.backward(losses)
        return flat_gradient(model), record, optimizer.param_groups[0]

    (plain, _, _), (noisy, record, group) = step(False), step(True)
    assert record.inactive == ("noise",)
    assert float(record.weights[3]) == 0
    assert float(group[f"moopt_rows_{METHODS[name].row_name}_0"][3].abs().max()) == 0
    # The initial weights are 1/4 each with it, and 1/3 without; projected, that is a third again.
    torch.testing.assert_close(noisy, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_is_not_finite_leaves_rows_and_state(name):
    model, optimizer = make(METHODS[name])
    train(model, optimizer, range(1))
    group = optimizer.param_groups[0]
    kept = {k: v.clone() for k, v in group.items() if k.startswith("moopt_") and torch.is_tensor(v)}
    assert any("rows" in key for key in kept)
    optimizer.zero_grad()
    losses = model.losses(batch(dtype=torch.float64))
    losses["a"] = losses["a"] * float("inf")
    record = optimizer.backward(losses)
    assert record.status is moopt.SolverStatus.NON_FINITE
    assert not torch.isfinite(flat_gradient(model)).any()
    for key, value in kept.items():
        assert torch.equal(group[key], value), key


@pytest.mark.parametrize("name", METHODS)
def test_a_scaler_changes_nothing(name):
    plain, reference = make(METHODS[name], dtype=torch.float32)
    model, optimizer = make(METHODS[name], dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for step in range(2):
        reference.zero_grad()
        optimizer.zero_grad()
        expected = reference.backward(plain.losses(batch(step)))
        record = optimizer.backward(model.losses(batch(step)), scaler=scaler)
        torch.testing.assert_close(record.slopes, expected.slopes, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(record.weights, expected.weights, rtol=1e-5, atol=1e-7)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad * 2.0**12, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", METHODS)
def test_every_dtype(name, dtype):
    model, optimizer = make(METHODS[name], dtype=dtype)
    train(model, optimizer, range(3))
    assert all(p.grad.dtype == dtype and torch.isfinite(p).all() for p in model.parameters())
    rows = optimizer.param_groups[0][f"moopt_rows_{METHODS[name].row_name}_0"]
    assert rows.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("name", OF_THE_STEP)
def test_one_objective_is_bit_for_bit_the_base_optimizer(name):
    plain = seeded(OneOutput)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.05)
    model, optimizer = make(METHODS[name], dtype=torch.float32, base=torch.optim.AdamW)
    for step in range(3):
        reference.zero_grad()
        plain.losses(batch(step))["a"].backward()
        reference.step()
    train(model, optimizer, range(3), names=("a",))
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", OF_THE_STEP)
def test_heads_take_their_own_gradient_and_have_no_rows(name):
    model, optimizer = make(METHODS[name], TwoHeads)
    losses = model.losses(batch(dtype=torch.float64))
    own = torch.autograd.grad(losses["first"], model.first.weight, retain_graph=True)[0]
    optimizer.backward(losses)
    assert torch.equal(model.first.weight.grad, own)
    keys = [k for k in optimizer.param_groups[0] if k.startswith("moopt_rows_")]
    assert len(keys) == 2  # the trunk's weight and bias


@pytest.mark.parametrize("name", METHODS)
def test_rows_follow_their_parameter_through_freezing(name):
    model, optimizer = make(METHODS[name])
    train(model, optimizer, range(1))
    key = f"moopt_rows_{METHODS[name].row_name}_"
    before = {k: v.clone() for k, v in optimizer.param_groups[0].items() if k.startswith(key)}
    first = next(model.parameters())
    first.requires_grad_(False)
    train(model, optimizer, range(1, 2))
    after = optimizer.param_groups[0]
    assert torch.equal(after[f"{key}0"], before[f"{key}0"])
    for k in range(1, 4):
        assert after[f"{key}{k}"].shape == before[f"{key}{k}"].shape
        assert not torch.equal(after[f"{key}{k}"], before[f"{key}{k}"])


def test_named_objectives_allocate_every_row_at_once():
    _, optimizer = make(MoCo(), objectives=("a", "b", "c"))
    keys = [k for k in optimizer.param_groups[0] if k.startswith("moopt_rows_")]
    assert len(keys) == 4
    assert optimizer.param_groups[0]["moopt_rows_average_0"].shape == (3, 5, 3)


@pytest.mark.parametrize("name", ["MoCo", "DBMTLWithEMA", "ExcessMTL", "MConFIG"])
def test_names_stand_for_the_default_instance(name):
    model, optimizer = make(name)
    assert isinstance(optimizer.weighting, TrackingAggregator)
    train(model, optimizer, range(1))
    logged = optimizer.record.as_dict()
    assert {"weight/a", "slope/a", "descent"} <= set(logged)
    assert "weight" in str(optimizer.record)


def test_only_the_named_objectives_are_averaged():
    """GRU as its authors run it: the retain gradient averaged, the forget gradient of this step."""
    gru = moopt.weightings.GRU(forget="a", retain=("b", "c"))
    model, optimizer = make(GradientEMA(gru, beta={"b": 0.5, "c": 0.5}))
    rows = []
    for step in range(2):
        optimizer.zero_grad()
        losses = model.losses(batch(step, dtype=torch.float64))
        rows.append(jacobian(losses, list(model.parameters())))
        optimizer.backward(losses)
        optimizer.step()
    retain = (0.5 * rows[0] + 0.5 * rows[1])[1:].sum(0)
    forget = rows[1][0]
    expected = forget - min(0.0, float(forget @ retain)) / (retain @ retain) * retain
    torch.testing.assert_close(flat_gradient(model), expected, rtol=RTOL, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_training_lowers_the_losses(name):
    model, optimizer = make(METHODS[name])
    x = batch(dtype=torch.float64)

    def total():
        with torch.no_grad():
            return sum(float(v) for v in model.losses(x).values())

    first = total()
    for _ in range(60):
        optimizer.zero_grad()
        optimizer.backward(model.losses(x))
        optimizer.step()
    assert total() < 0.8 * first


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: MoCo(beta=0.0), "`beta` of `MoCo`"),
        (lambda: MoCo(beta=1.1), "`beta` of `MoCo`"),
        (lambda: MoCo(gamma=0.0), "`gamma` of `MoCo`"),
        (lambda: MoCo(gamma_decay=-1.0), "`gamma_decay` of `MoCo`"),
        (lambda: MoCo(regularization=float("nan")), "`regularization` of `MoCo`"),
        (lambda: MoCo(normalize="l2"), "`normalize` of `MoCo`"),
        (lambda: MoCo(simplex="sort"), "`simplex` of `MoCo`"),
        (lambda: DBMTLWithEMA(beta=1.0), "`beta` of `DBMTLWithEMA`"),
        (lambda: DBMTLWithEMA(beta_decay=float("inf")), "`beta_decay` of `DBMTLWithEMA`"),
        (lambda: ExcessMTL(step_size=0.0), "`step_size` of `ExcessMTL`"),
        (lambda: MConFIG(beta=1.0), "`beta` of `MConFIG`"),
        (lambda: MConFIG(beta=-0.1), "`beta` of `MConFIG`"),
        (lambda: MConFIG(rtol=1.0), "`rtol` of `MConFIG`"),
        (lambda: GradientEMA(moopt.MGDA(), beta=1.0), r"`beta.* of `GradientEMA`"),
        (lambda: GradientEMA(moopt.MGDA(), beta={"a": -0.1}), r"`beta.* of `GradientEMA`"),
        (lambda: GradientEMA(moopt.weightings.MoDo()), "gradients and losses alone"),
        (lambda: GradientEMA(moopt.scalarizations.FAMO()), "gradients and losses alone"),
    ],
)
def test_settings_out_of_range_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def test_the_rows_are_not_printed():
    model, optimizer = make(MoCo())
    train(model, optimizer, range(1))
    assert "tensor(" not in repr(optimizer)
    assert "SGD(lr=0.05" in repr(optimizer)


def test_complex_parameters_are_refused():
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), MoCo())
    with pytest.raises(TypeError, match="tracks real gradients"):
        optimizer.backward({"a": w[0].abs() ** 2, "b": (w[0] - w[1]).abs() ** 2})


@pytest.mark.parametrize("name", METHODS)
def test_a_scalar_parameter(name):
    scale = torch.nn.Parameter(torch.tensor(2.0))
    optimizer = moopt.CommonDescent(torch.optim.SGD([scale], lr=0.1), METHODS[name])
    optimizer.backward({"a": scale**2, "b": (scale - 1) ** 2, "c": (scale + 1) ** 2})
    optimizer.step()
    assert 0.0 < float(scale.detach()) < 2.0


def test_a_step_that_raises_leaves_the_rows():
    """The preference of an inner method does not fit: training goes on as if nothing happened."""

    def run(mistake):
        w = torch.nn.Parameter(torch.ones(2))
        method = GradientEMA(moopt.UPGrad(preference={"a": 1.0, "b": 1.0}))
        optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), method)
        for step in range(3):
            if mistake and step == 1:
                with pytest.raises(ValueError, match="preference"):
                    optimizer.backward({n: 10 * (i + 1) * w.sum() for i, n in enumerate("abc")})
            optimizer.zero_grad()
            optimizer.backward({n: (i + 1) * w.sum() for i, n in enumerate("ab")})
            optimizer.step()
        return w.tolist()

    assert run(True) == run(False)
