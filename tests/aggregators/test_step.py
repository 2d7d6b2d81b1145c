"""Aggregators in CommonDescent: direction, heads, record, scaler, resume."""

from __future__ import annotations

import pytest
import torch

import moopt
from moopt.aggregators import SAGO, EntrywiseAggregator, GradDrop, TrimmedMean
from moopt.diagnostics import History, conflict_matrix
from tests.optimizer.problems import (
    FLOAT32_COMBINE_RTOL,
    OneOutput,
    TwoHeads,
    batch,
    jacobian,
    parameters_of,
    seeded,
)

METHODS = {
    "TrimmedMean": TrimmedMean(trim=1),
    "GradDrop": GradDrop(leak=dict.fromkeys("abc", 0.1)),
    "SAGO": SAGO(forget="a", retain=("b", "c")),
}


def make(method, cls=OneOutput, dtype=torch.float32, base=torch.optim.SGD, **options):
    model = seeded(cls, dtype=dtype)
    return model, moopt.CommonDescent(base(model.parameters(), lr=0.05), method, **options)


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch(step)))
        optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_the_direction_is_the_rule_of_every_parameter(name):
    method = METHODS[name]
    model, optimizer = make(method)
    losses = model.losses(batch())
    parameters = list(model.parameters())
    rows = jacobian(losses, parameters)
    each = [torch.autograd.grad(v, parameters, retain_graph=True) for v in losses.values()]
    expected = [
        method([row[t] for row in each], names=("a", "b", "c"), position=t)
        for t in range(len(parameters))
    ]
    record = optimizer.backward(losses)
    for p, direction in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, direction)
    flat = torch.cat([p.grad.flatten() for p in parameters]).double()
    torch.testing.assert_close(record.gramian, rows @ rows.T, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(record.slopes, -rows @ flat, rtol=1e-5, atol=1e-7)
    assert torch.isnan(record.weights).all()
    assert set(record.raised) == {
        n for n, slope in zip("abc", record.slopes.tolist(), strict=True) if slope > 0
    }
    assert bool(record.descent) == (not record.raised)
    assert record.measured
    optimizer.step()
    assert optimizer.record.bypassed == 0


def test_the_record_reads_as_slopes_where_there_are_no_weights():
    model, optimizer = make(METHODS["SAGO"])
    record = optimizer.backward(model.losses(batch()))
    logged = record.as_dict()
    assert {"slope/a", "norm/a", "cosine/a,b", "descent", "stationarity"} <= set(logged)
    assert not any(key.startswith("weight/") for key in logged)
    assert all(value == value for value in logged.values())
    assert "slope" in str(record)
    assert "weight" not in str(record)
    assert set(record.conflicts) == {
        (a, b)
        for i, a in enumerate("abc")
        for j, b in enumerate("abc")
        if i < j and record.gramian[i, j] < 0
    }


def test_a_history_of_steps_without_weights_still_knows_the_objectives():
    model, optimizer = make(METHODS["SAGO"])
    history = History()
    for step in range(3):
        optimizer.zero_grad()
        history(optimizer.backward(model.losses(batch(step))))
        optimizer.step()
    assert history.objectives == ("a", "b", "c")
    assert torch.isfinite(history.series("slope/a")).all()
    assert conflict_matrix(history).steps[0, 1] == 3


def test_a_slope_is_the_change_of_the_loss_along_the_step():
    """Positive beside "raises": the sign is that of the loss after the step less before."""
    lr, generator = 1e-6, torch.Generator().manual_seed(0)
    targets = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    w = torch.nn.Parameter(targets.mean(0))  # the losses' gradients cancel: some loss is raised

    def losses():
        return {n: (w - t).square().mean() for n, t in zip("abc", targets, strict=True)}

    signs = set()
    for _ in range(5):
        before = torch.stack(list(losses().values()))
        optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=lr), GradDrop())
        optimizer.zero_grad()
        record = optimizer.backward(losses())
        optimizer.step()
        change = (torch.stack(list(losses().values())) - before) / lr
        torch.testing.assert_close(record.slopes, change, rtol=1e-3, atol=1e-5)
        logged = [record.as_dict()[f"slope/{n}"] for n in "abc"]
        assert logged == record.slopes.tolist()
        assert set(record.raised) == {n for n, s in zip("abc", logged, strict=True) if s > 0}
        assert all(f"slope {s:+.3g}" in str(record) for s in logged)
        signs |= {s > 0 for s in logged}
        with torch.no_grad():
            w.copy_(targets.mean(0) + 0.3 * torch.randn(6, generator=generator))
    assert signs == {True, False}


def test_a_raised_objective_is_named():
    class Ascent(EntrywiseAggregator):
        """A violator of any descent: minus the first gradient."""

        name, source = "Ascent", "planted"

        def _aggregate(self, rows, active, names, state, position):
            return -rows[0]

    model, optimizer = make(Ascent())
    record = optimizer.backward(model.losses(batch()))
    assert "a" in record.raised
    assert not bool(record.descent)
    assert "raises a" in str(record)


def test_retention_never_suffers_to_first_order():
    model, optimizer = make(SAGO(forget="first", retain="second"), TwoHeads)
    for step in range(5):
        optimizer.zero_grad()
        record = optimizer.backward(model.losses(batch(step)))
        assert float(record.slopes[1]) <= 0
        optimizer.step()


def test_heads_take_their_own_gradient():
    model, optimizer = make(SAGO(forget="first", retain="second"), TwoHeads)
    losses = model.losses(batch())
    heads = [model.first.weight, model.second.bias]
    own = [
        torch.autograd.grad(losses[name], head, retain_graph=True)[0]
        for name, head in zip(("first", "second"), heads, strict=True)
    ]
    optimizer.backward(losses)
    for head, gradient in zip(heads, own, strict=True):
        assert torch.equal(head.grad, gradient)


def test_an_objective_at_its_noise_floor_is_inactive():
    def step(with_noise):
        model, optimizer = make(SAGO(forget=("a", "noise"), retain=("b", "c")))
        losses = model.losses(batch())
        if with_noise:
            losses["noise"] = 1.0 - 1e-7 * losses["a"]
        record = optimizer.backward(losses)
        return [p.grad for p in model.parameters()], record

    (plain, _), (noisy, record) = step(False), step(True)
    assert record.inactive == ("noise",)
    for a, b in zip(plain, noisy, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", METHODS)
def test_one_objective_is_bit_for_bit_the_base_optimizer(name):
    plain = seeded(OneOutput)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.05)
    model, optimizer = make(METHODS[name], base=torch.optim.AdamW)
    for step in range(3):
        reference.zero_grad()
        plain.losses(batch(step))["a"].backward()
        reference.step()
        optimizer.zero_grad()
        optimizer.backward({"a": model.losses(batch(step))["a"]})
        optimizer.step()
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", METHODS)
def test_every_way_in_is_the_same_step(name):
    def run(way):
        model, optimizer = make(METHODS[name])
        losses = model.losses(batch())
        if way == "backward":
            optimizer.backward(losses)
        elif way == "functional":
            moopt.backward(losses, model.parameters(), METHODS[name], state={})
        else:
            for key, loss in losses.items():
                with optimizer.objective(key, loss):
                    loss.backward(retain_graph=True)
            optimizer.combine_()
        return [p.grad for p in model.parameters()]

    for way in ("objective", "functional"):
        for a, b in zip(run("backward"), run(way), strict=True):
            assert torch.equal(a, b)


def test_a_closure_is_refused_because_it_needs_weights():
    model, optimizer = make(METHODS["SAGO"])
    with pytest.raises(ValueError, match="SAGO has none"):
        optimizer.step(lambda: model.losses(batch()))
    with pytest.raises(TypeError, match="SAGO does not learn"):
        optimizer.observe(model.losses(batch()))
    with pytest.raises(TypeError, match="got the class SAGO"):
        make(SAGO)


def test_a_scaler_changes_nothing():
    plain, reference = make(METHODS["SAGO"])
    model, optimizer = make(METHODS["SAGO"])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    expected = reference.backward(plain.losses(batch()))
    record = optimizer.backward(model.losses(batch()), scaler=scaler)
    torch.testing.assert_close(record.slopes, expected.slopes, rtol=1e-6, atol=0)
    torch.testing.assert_close(record.gramian, expected.gramian, rtol=1e-6, atol=0)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad * 2.0**12)


def test_non_finite_gradients_reach_grad_and_leave_the_state():
    model, optimizer = make(METHODS["GradDrop"])
    train(model, optimizer, 1)
    optimizer.zero_grad()
    losses = model.losses(batch())
    losses["a"] = losses["a"] * float("inf")
    record = optimizer.backward(losses)
    assert record.status is moopt.SolverStatus.NON_FINITE
    assert not bool(record.descent)
    assert not all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert int(optimizer.param_groups[0]["moopt_state_counter"]) == 1


def test_save_load_resume_is_bit_equal(tmp_path):
    model, optimizer = make(METHODS["GradDrop"])
    train(model, optimizer, 3)
    torch.save({"model": model.state_dict(), "opt": optimizer.state_dict()}, tmp_path / "ckpt.pt")
    train(model, optimizer, 2, start=3)
    loaded = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    resumed, other = make(METHODS["GradDrop"])
    resumed.load_state_dict(loaded["model"])
    other.load_state_dict(loaded["opt"])
    train(resumed, other, 2, start=3)
    for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True):
        assert torch.equal(a, b)
    fresh, forgetful = make(METHODS["GradDrop"])
    fresh.load_state_dict(loaded["model"])
    train(fresh, forgetful, 2, start=3)  # drawn from the beginning: another path
    assert not all(
        torch.equal(a, b) for a, b in zip(parameters_of(model), parameters_of(fresh), strict=True)
    )


def test_gradients_already_there_are_added_to():
    model, optimizer = make(METHODS["SAGO"])
    other, alone = make(METHODS["SAGO"])
    alone.backward(other.losses(batch()))
    sum(p.square().sum() for p in model.parameters()).backward()
    regulariser = [p.grad.clone() for p in model.parameters()]
    optimizer.backward(model.losses(batch()))
    for p, q, r in zip(model.parameters(), other.parameters(), regulariser, strict=True):
        torch.testing.assert_close(p.grad, q.grad + r, rtol=FLOAT32_COMBINE_RTOL, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_every_dtype(name, dtype):
    model, optimizer = make(METHODS[name], dtype=dtype)
    for step in range(3):
        optimizer.zero_grad()
        optimizer.backward(model.losses(batch(step, dtype=dtype)))
        optimizer.step()
    assert all(p.grad.dtype == dtype and torch.isfinite(p).all() for p in model.parameters())
