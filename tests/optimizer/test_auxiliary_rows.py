"""Rows that are not objectives: other batches' samples, and the drift from the original model."""

from __future__ import annotations

import pytest
import torch

import moopt
from moopt.settings.names import sample_name
from moopt.weightings import CRMOGM, MoDo, OrthogonalSteepestDescent
from tests.optimizer.problems import (
    FLOAT32_COMBINE_RTOL,
    OneOutput,
    TwoHeads,
    batch,
    jacobian,
    parameters_of,
    seeded,
)

STEP = MoDo(step_size=0.05)
ORTHOGONAL = 1e-6  # cosine; float32 gradients, and a direction rounded to float32


def make(method, cls=OneOutput, **options):
    model = seeded(cls)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, moopt.CommonDescent(optimizer, method, **options)


def samples(model, step=0):
    return tuple(model.losses(batch(100 * k + step)) for k in (1, 2))


def test_samples_enter_the_weights_and_not_the_direction():
    model, optimizer = make(STEP)
    parameters = list(model.parameters())
    rows, first, second = (
        jacobian(losses, parameters) for losses in (model.losses(batch()), *samples(model))
    )
    w = torch.full((3,), 1 / 3, dtype=torch.float64)
    expected = moopt.solvers.simplex_projection(w - 0.05 * (first @ second.T @ w + 0.1 * w))
    record = optimizer.backward(model.losses(batch()), samples=samples(model))
    torch.testing.assert_close(record.weights, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(record.gramian, rows @ rows.T, rtol=1e-6, atol=1e-9)
    flat = torch.cat([p.grad.flatten() for p in parameters]).double()
    torch.testing.assert_close(flat, rows.T @ expected, rtol=1e-5, atol=1e-7)
    assert record.names == ("a", "b", "c")
    assert record.slopes is None
    assert not any("#" in key for key in record.as_dict())
    optimizer.step()


def test_every_way_in_is_the_same_step():
    def run(way):
        model, optimizer = make(STEP)
        if way == "backward":
            optimizer.backward(model.losses(batch()), samples=samples(model))
        elif way == "accumulate":
            half = [{n: v / 2 for n, v in s.items()} for s in samples(model)]
            losses = {n: v / 2 for n, v in model.losses(batch()).items()}
            optimizer.backward(losses, samples=half, accumulate=True)
            half = [{n: v / 2 for n, v in s.items()} for s in samples(model)]
            losses = {n: v / 2 for n, v in model.losses(batch()).items()}
            optimizer.backward(losses, samples=half)
        else:
            for k, sample in enumerate(samples(model), 1):
                for name, loss in sample.items():
                    with optimizer.auxiliary(sample_name(name, k)):
                        loss.backward(retain_graph=True)
            for name, loss in model.losses(batch()).items():
                with optimizer.objective(name, loss):
                    loss.backward(retain_graph=True)
            optimizer.combine_()
        return [p.grad for p in model.parameters()]

    plain = run("backward")
    for way in ("accumulate", "blocks"):
        for a, b in zip(plain, run(way), strict=True):
            torch.testing.assert_close(a, b, rtol=FLOAT32_COMBINE_RTOL, atol=1e-8)


def test_samples_of_the_same_graph_are_differentiated_together():
    model, optimizer = make(STEP)
    losses = model.losses(batch())
    optimizer.backward(losses, samples=(losses, {n: 2 * v for n, v in losses.items()}))
    optimizer.step()


def test_a_scaler_changes_nothing():
    plain, reference = make(STEP)
    model, optimizer = make(STEP)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    expected = reference.backward(plain.losses(batch()), samples=samples(plain))
    record = optimizer.backward(model.losses(batch()), samples=samples(model), scaler=scaler)
    torch.testing.assert_close(record.weights, expected.weights, rtol=1e-6, atol=0)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad * 2.0**10, rtol=1e-6, atol=0)


def test_save_load_resume_is_bit_equal(tmp_path):
    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            optimizer.backward(model.losses(batch(step)), samples=samples(model, step))
            optimizer.step()

    model, optimizer = make(STEP)
    train(model, optimizer, range(3))
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")
    train(model, optimizer, range(3, 5))
    resumed, other = make(STEP)
    weights, state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(weights)
    other.load_state_dict(state)
    train(resumed, other, range(3, 5))
    for a, b in zip(parameters_of(model), parameters_of(resumed), strict=True):
        assert torch.equal(a, b)


def drifting_step(method, names, scale=1.0):
    """One step after the parameters moved away from the original ones."""
    model, optimizer = make(method)
    original = parameters_of(model)
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k))
    with optimizer.auxiliary("drift"):
        for p, previous in zip(model.parameters(), original, strict=True):
            p.grad = scale * (p.detach() - previous)
    drift = torch.cat(
        [(p - q).flatten() for p, q in zip(parameters_of(model), original, strict=True)]
    )
    losses = model.losses(batch())
    rows = jacobian(losses, list(model.parameters()))
    for name in names:
        with optimizer.objective(name, losses[name]):
            losses[name].backward(retain_graph=True)
    record = optimizer.combine_()
    direction = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    return record, direction, dict(zip("abc", rows, strict=True)), drift.double()


def cosine(a, b):
    return float(a @ b / a.norm() / b.norm())


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_the_steepest_descent_is_orthogonal_to_the_drift_and_to_what_is_retained(scale):
    method = OrthogonalSteepestDescent(forget="a", retain=("b", "c"), drift="drift")
    record, direction, rows, drift = drifting_step(method, "abc", scale)
    for wall in (rows["b"], rows["c"], drift):
        assert abs(cosine(direction, wall)) < ORTHOGONAL
    assert cosine(direction, rows["a"]) > 0.01
    torch.testing.assert_close(direction.norm(), rows["a"].norm(), rtol=1e-5, atol=0)
    # The weights alone do not tell the slopes: the drift has one of its own.
    slopes = -torch.stack([rows[name] @ direction for name in "abc"])
    torch.testing.assert_close(record.slopes, slopes, rtol=1e-4, atol=1e-6)
    assert bool(record.descent)
    assert {"slope/a", "weight/a"} <= set(record.as_dict())
    free = OrthogonalSteepestDescent(forget="a", retain=("b", "c"))
    model, optimizer = make(free)
    optimizer.backward(model.losses(batch()))
    without = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    assert abs(cosine(without, drift)) > 100 * ORTHOGONAL


def test_a_recovery_step_of_one_objective_does_not_move_back():
    method = OrthogonalSteepestDescent(forget="a", retain=("b", "c"), drift="drift")
    _, direction, rows, drift = drifting_step(method, "b")
    assert abs(cosine(direction, drift)) < ORTHOGONAL
    expected = rows["b"] - (rows["b"] @ drift) / (drift @ drift) * drift
    torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-6)


def test_heads_take_their_gradients_and_nothing_of_the_drift():
    method = OrthogonalSteepestDescent(forget="first", retain="second", drift="drift")
    model, optimizer = make(method, TwoHeads)
    with optimizer.auxiliary("drift"):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
    losses = model.losses(batch())
    own = torch.autograd.grad(losses["first"], model.first.weight, retain_graph=True)[0]
    optimizer.backward(losses)
    assert torch.equal(model.first.weight.grad, own)


def test_rows_that_the_method_never_looks_at_are_refused():
    model, optimizer = make(moopt.MGDA())
    with pytest.raises(ValueError, match="MGDA as configured uses no auxiliary rows; got 'a#1'"):
        optimizer.backward(model.losses(batch()), samples=samples(model))
    with optimizer.auxiliary("drift"):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="uses no auxiliary rows; got 'drift'"):
        optimizer.backward(model.losses(batch()))
    optimizer.backward(model.losses(batch()))  # the refused rows are gone
    optimizer.step()
    assert optimizer.record.names == ("a", "b", "c")


def test_rows_that_wait_are_not_forgotten():
    model, optimizer = make(STEP)
    with optimizer.auxiliary("a#1"):
        sum(model.losses(batch()).values()).backward()
    with pytest.raises(RuntimeError, match="rows of 'a#1' that were never combined"):
        optimizer.step()
    optimizer.zero_grad()
    optimizer.step()


def test_mistakes_are_named():
    model, optimizer = make(STEP)
    with pytest.raises(ValueError, match=r"samples.*a, b, c.*got a, b"):
        optimizer.backward(
            model.losses(batch()), samples=[{n: model.losses(batch())[n] for n in "ab"}]
        )
    with pytest.raises(ValueError, match=r"each loss on two further batches.*'a#2'"):
        optimizer.backward(model.losses(batch()), samples=samples(model)[:1])
    with (
        pytest.raises(RuntimeError, match="no gradient arrived in the block of 'x'"),
        optimizer.auxiliary("x"),
    ):
        pass
    with optimizer.auxiliary("a"):
        sum(model.losses(batch()).values()).backward()
    with pytest.raises(ValueError, match="'a' is both an objective and an auxiliary row"):
        optimizer.backward(model.losses(batch()))
    with pytest.raises(ValueError, match="weigh objectives alone"):
        CRMOGM(OrthogonalSteepestDescent(forget="a", retain="b", drift="x"))
    with optimizer.auxiliary("a#1"):
        sum(model.losses(batch()).values()).backward()
    with pytest.raises(RuntimeError, match="no recorded objective"):
        optimizer.combine_()


def test_an_objective_named_like_a_sample_is_refused():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1), MoDo())
    losses = [{"a": w[0] * 1.0, "a#1": w[1] * 1.0} for _ in range(3)]
    with pytest.raises(ValueError, match="named like the rows of samples; got a#1"):
        optimizer.backward(losses[0], samples=losses[1:])
