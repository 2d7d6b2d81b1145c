"""backward, objective + combine_, step(closure), moopt.backward: one and the same step."""

from __future__ import annotations

import pytest
import torch

import moopt
from tests.optimizer.problems import (
    FLOAT32_COMBINE_RTOL,
    OneOutput,
    TwoHeads,
    batch,
    jacobian,
    parameters_of,
    seeded,
)

MODELS = [OneOutput, TwoHeads]


def run(model, way, steps=4, weighting=None, base=torch.optim.AdamW):
    optimizer = moopt.CommonDescent(base(model.parameters(), lr=0.05), weighting or moopt.MGDA())
    for step in range(steps):
        x = batch(step)
        if way == "closure":
            optimizer.step(lambda x=x: model.losses(x))
            continue
        optimizer.zero_grad()
        if way == "backward":
            optimizer.backward(model.losses(x))
        elif way == "functional":
            moopt.backward(model.losses(x), optimizer)
        elif way == "objective":
            for name in model.losses(x):
                loss = model.losses(x)[name]
                with optimizer.objective(name, loss):
                    loss.backward()
            optimizer.combine_()
        optimizer.step()
    return parameters_of(model), optimizer


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("way", ["objective", "closure", "functional"])
def test_every_way_in_is_the_same_trajectory(cls, way):
    expected, _ = run(seeded(cls), "backward")
    got, _ = run(seeded(cls), way)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0)


def test_backward_leaves_the_direction_of_the_weights_in_grad():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=1.0), moopt.MGDA())
    losses = model.losses(batch())
    rows = jacobian(losses, list(model.parameters()))
    record = optimizer.backward(losses)
    direction = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    expected = record.weights @ rows
    assert (direction - expected).norm() <= FLOAT32_COMBINE_RTOL * expected.norm()
    torch.testing.assert_close(record.gramian, rows @ rows.T, rtol=1e-6, atol=1e-9)
    assert bool(record.descent)
    assert ((rows @ direction) > 0).all()


def test_functional_works_with_any_optimizer_and_with_parameters():
    directions = []
    for target in ("optimizer", "parameters", "generator"):
        model = seeded(OneOutput)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        owner = {
            "optimizer": sgd,
            "parameters": list(model.parameters()),
            "generator": model.parameters(),
        }[target]
        moopt.backward(model.losses(batch()), owner, moopt.MGDA())
        directions.append([p.grad.clone() for p in model.parameters()])
    assert all(
        torch.equal(a, b)
        for other in directions[1:]
        for a, b in zip(directions[0], other, strict=True)
    )


def test_functional_keeps_the_state_of_a_stateful_weighting_in_the_callers_dictionary():
    weighting = moopt.CRMOGM(moopt.MGDA())
    expected, _ = run(seeded(OneOutput), "backward", weighting=weighting, base=torch.optim.SGD)
    model = seeded(OneOutput)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    state: dict = {}
    for step in range(4):
        sgd.zero_grad()
        moopt.backward(model.losses(batch(step)), sgd, weighting, state=state)
        sgd.step()
    for a, b in zip(expected, parameters_of(model), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="state=\\{\\}"):
        moopt.backward(model.losses(batch()), sgd, weighting)


@pytest.mark.parametrize("way", ["backward", "objective"])
def test_micro_batches_are_one_large_batch(way):
    x = batch(size=8, dtype=torch.float64)

    def accumulate(pieces):
        model = seeded(OneOutput, dtype=torch.float64)
        optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA())
        parts = x.chunk(pieces)
        for i, part in enumerate(parts):
            losses = {n: v / pieces for n, v in model.losses(part).items()}
            if way == "backward":
                optimizer.backward(losses, accumulate=i + 1 < pieces)
            else:
                for name, loss in losses.items():
                    with optimizer.objective(name, loss):
                        loss.backward(retain_graph=True)
        if way == "objective":
            optimizer.combine_()
        return [p.grad for p in model.parameters()], optimizer.record

    whole, record_whole = accumulate(1)
    pieces, record_pieces = accumulate(8)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(record_pieces.losses, record_whole.losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(record_pieces.gramian, record_whole.gramian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", ["backward", "objective", "closure", "functional"])
@pytest.mark.parametrize(
    "weighting",
    [
        moopt.MGDA(),
        moopt.MGDA(normalize="l2"),
        moopt.DualSpaceMGDA(variant="dual_basis"),
        moopt.Mean(),
        moopt.Sum(),
        moopt.CRMOGM(moopt.MGDA()),
    ],
    ids=repr,
)
def test_one_objective_is_bit_for_bit_the_base_optimizer(way, weighting):
    plain = seeded(OneOutput)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.05)
    model = seeded(OneOutput)
    model.losses = lambda x: {"a": OneOutput.losses(model, x)["a"]}
    for step in range(4):
        reference.zero_grad()
        plain.losses(batch(step))["a"].backward()
        reference.step()
    got, optimizer = run(model, way, weighting=weighting)
    for a, b in zip(parameters_of(plain), got, strict=True):
        assert torch.equal(a, b)
    assert optimizer.record.weights.tolist() == [1.0]
    assert optimizer.record.norms.item() > 0


def test_unnamed_losses():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), "mgda")
    losses = list(model.losses(batch()).values())
    first = optimizer.backward(losses)
    optimizer.zero_grad()
    second = optimizer.backward(torch.stack(list(model.losses(batch()).values())))
    assert first.names == second.names == ("0", "1", "2")
    torch.testing.assert_close(first.gramian, second.gramian)
    optimizer.step()
    with pytest.raises(ValueError, match="keep its length; got 2 after 3"):
        optimizer.backward(list(model.losses(batch()).values())[:2])


def test_closure_with_a_multi_evaluation_optimizer_fixes_the_weights_of_the_step():
    model = seeded(OneOutput, dtype=torch.float64)
    base = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=4, line_search_fn="strong_wolfe")
    optimizer = moopt.CommonDescent(base, moopt.MGDA(normalize="l2"))
    x = batch(dtype=torch.float64)
    evaluations = []

    def closure():
        losses = model.losses(x)
        evaluations.append([v.item() for v in losses.values()])
        return losses

    returned = optimizer.step(closure)
    weights = optimizer.record.weights
    assert len(evaluations) > 1
    expected = weights @ torch.tensor(evaluations[0], dtype=torch.float64)
    torch.testing.assert_close(returned, expected)
    # what the base minimised is the weighted sum with the weights of the first evaluation
    after = weights @ torch.stack(list(model.losses(x).values())).detach()
    assert after < expected
    first = optimizer.record.weights
    optimizer.step(closure)
    assert not torch.equal(first, optimizer.record.weights)


def test_closure_is_plain_lbfgs_for_constant_weights():
    def closure_for(model, x):
        return lambda: model.losses(x)

    x = batch(dtype=torch.float64)
    model, plain = (seeded(OneOutput, dtype=torch.float64) for _ in range(2))
    weights = {"a": 1.0, "b": 0.5, "c": 2.0}
    optimizer = moopt.CommonDescent(torch.optim.LBFGS(model.parameters()), moopt.Constant(weights))
    reference = torch.optim.LBFGS(plain.parameters())

    def summed():
        reference.zero_grad()
        total = sum(weights[n] * v for n, v in plain.losses(x).items())
        total.backward()
        return total

    for _ in range(2):
        optimizer.step(closure_for(model, x))
        reference.step(summed)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_closure_that_changes_its_objectives_is_refused():
    model = seeded(OneOutput)
    optimizer = moopt.CommonDescent(torch.optim.LBFGS(model.parameters()), moopt.MGDA())
    calls = []

    def closure():
        losses = model.losses(batch())
        calls.append(1)
        return losses if len(calls) == 1 else {"a": losses["a"]}

    with pytest.raises(ValueError, match="same objectives in every evaluation"):
        optimizer.step(closure)


def test_closure_with_heads_and_repeated_evaluations_warns():
    model = seeded(TwoHeads)
    optimizer = moopt.CommonDescent(torch.optim.LBFGS(model.parameters()), moopt.MGDA())
    with pytest.warns(UserWarning, match="shared=model.parameters"):
        optimizer.step(lambda: model.losses(batch()))
    quiet = moopt.CommonDescent(
        torch.optim.LBFGS(model.parameters()), moopt.MGDA(), shared=model.parameters()
    )
    quiet.step(lambda: model.losses(batch()))
    assert torch.isfinite(quiet.record.losses).all()


def test_the_value_of_a_recorded_loss_is_checked_before_the_pass():
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.1))
    for name, loss, error, match in (
        ("a", torch.ones(2), ValueError, "loss 'a' must be a scalar"),
        ("a", torch.tensor(1j), ValueError, "must be floating point"),
        ("a", "x", TypeError, "loss 'a' must be a tensor"),
        (3, w.sum(), TypeError, "must be str; got 3"),
    ):
        ran = []
        with pytest.raises(error, match=match), optimizer.objective(name, loss):
            ran.append(True)
        assert not ran
    with optimizer.objective("a", 2):
        w.sum().backward()
    assert optimizer.combine_().losses.tolist() == [2.0]
