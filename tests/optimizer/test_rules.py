"""The rules of one step: heads, existing gradients, misuse, objectives that come and go."""

from __future__ import annotations

import json

import pytest
import torch

import moopt
from tests.optimizer.problems import OneOutput, TwoHeads, batch, jacobian, seeded


def make(cls=OneOutput, weighting=None, base=torch.optim.SGD, **options):
    model = seeded(cls)
    optimizer = moopt.CommonDescent(
        base(model.parameters(), lr=0.1), weighting or moopt.MGDA(), **options
    )
    return model, optimizer


# ------------------------------------------------------------------------------- shared and heads


def test_heads_take_their_own_gradient_unweighted():
    model, optimizer = make(TwoHeads)
    losses = model.losses(batch())
    head = torch.autograd.grad(losses["second"], model.second.weight, retain_graph=True)[0]
    rows = jacobian(losses, list(model.trunk.parameters()))
    record = optimizer.backward(losses)
    assert torch.equal(model.second.weight.grad, head)
    torch.testing.assert_close(record.gramian, rows @ rows.T, rtol=1e-6, atol=1e-9)


def test_shared_argument_decides_what_enters_the_gramian():
    model = seeded(TwoHeads)
    chosen = [model.trunk.weight]
    optimizer = moopt.CommonDescent(
        torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA(), shared=chosen
    )
    losses = model.losses(batch())
    rows = jacobian(losses, chosen)
    bias = jacobian(losses, [model.trunk.bias]).sum(0)
    record = optimizer.backward(losses)
    torch.testing.assert_close(record.gramian, rows @ rows.T, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(model.trunk.bias.grad.double(), bias, rtol=1e-6, atol=1e-9)


def test_shared_all_weights_the_heads_too():
    model = seeded(TwoHeads)
    optimizer = moopt.CommonDescent(
        torch.optim.SGD(model.parameters(), lr=0.1), moopt.MGDA(), shared=model.parameters()
    )
    losses = model.losses(batch())
    rows = jacobian(losses, list(model.parameters()))
    record = optimizer.backward(losses)
    direction = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    torch.testing.assert_close(direction, record.weights @ rows, rtol=1e-5, atol=1e-8)


def test_shared_must_be_parameters_of_the_optimizer():
    model = seeded(TwoHeads)
    base = torch.optim.SGD(model.trunk.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="1 of 1 are not"):
        moopt.CommonDescent(base, shared=[model.first.weight])
    with pytest.raises(ValueError, match="at least one"):
        moopt.CommonDescent(base, shared=[])


def test_objectives_without_a_shared_parameter_are_independent():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = moopt.CommonDescent(torch.optim.SGD([a, b], lr=0.1), moopt.MGDA())
    record = optimizer.backward({"a": a.square().sum(), "b": 3 * b.square().sum()})
    assert a.grad.tolist() == [2.0, 2.0]
    assert b.grad.tolist() == [6.0, 6.0]
    assert record.weights.tolist() == [1.0, 1.0]
    assert record.status is moopt.SolverStatus.CONVERGED


def test_parameters_in_no_group_accumulate_as_in_torch():
    model = seeded(TwoHeads)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.trunk.parameters(), lr=0.1), moopt.MGDA())
    losses = model.losses(batch())
    expected = torch.autograd.grad(losses["first"], model.first.weight, retain_graph=True)[0]
    optimizer.backward(losses)
    torch.testing.assert_close(model.first.weight.grad, expected)


def test_gradients_already_there_are_added_and_keep_their_memory():
    model, optimizer = make()
    losses = model.losses(batch())
    alone = make()[1]
    alone_model = alone.param_groups[0]["params"]
    other = seeded(OneOutput)
    alone = moopt.CommonDescent(torch.optim.SGD(other.parameters(), lr=0.1), moopt.MGDA())
    alone.backward(other.losses(batch()))
    assert len(alone_model) == len(list(model.parameters()))
    sum(p.square().sum() for p in model.parameters()).backward()
    views = [p.grad for p in model.parameters()]
    regulariser = [g.clone() for g in views]
    optimizer.backward(losses)
    for p, q, r, view in zip(
        model.parameters(), other.parameters(), regulariser, views, strict=True
    ):
        torch.testing.assert_close(p.grad, q.grad + r)
        assert p.grad is view


def test_aliased_gradients_are_not_combined_twice():
    # autograd hands both parameters views of one buffer here
    a, b = (torch.nn.Parameter(torch.randn(2, 2)) for _ in range(2))
    optimizer = moopt.CommonDescent(torch.optim.SGD([a, b], lr=0.1), moopt.Constant([2.0, 3.0]))

    def losses():
        y = a.view(-1) + b.view(-1)
        return [y.square().sum(), y.sum()]

    first, second = (
        torch.autograd.grad(loss, [a, b], retain_graph=True) for loss in (losses()[0], losses()[1])
    )
    optimizer.backward(losses())
    for p, g, h in zip((a, b), first, second, strict=True):
        torch.testing.assert_close(p.grad, 2 * g + 3 * h)


def test_sparse_gradients_are_refused_and_nothing_is_lost():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = moopt.CommonDescent(torch.optim.SGD(embedding.parameters(), lr=0.1), moopt.MGDA())
    embedding.weight.grad = torch.ones(4, 2)
    out = embedding(torch.tensor([1]))
    with pytest.raises(TypeError, match="sparse=False"):
        optimizer.backward({"a": out.sum(), "b": out.square().sum()})
    assert torch.equal(embedding.weight.grad, torch.ones(4, 2))


def test_frozen_parameters_are_left_alone():
    model, optimizer = make()
    first = next(model.parameters())
    first.requires_grad_(False)
    optimizer.backward(model.losses(batch()))
    optimizer.step()
    assert first.grad is None


# ------------------------------------------------------------------------------------- protocol


def test_second_backward_before_step_is_refused():
    model, optimizer = make()
    optimizer.backward(model.losses(batch()))
    with pytest.raises(RuntimeError, match=r"optimizer\.step\(\) or"):
        optimizer.backward(model.losses(batch()))
    with pytest.raises(RuntimeError, match="was not used"), optimizer.objective("a"):
        pass
    optimizer.step()
    optimizer.zero_grad()
    optimizer.backward(model.losses(batch()))
    optimizer.zero_grad()
    assert optimizer.backward(model.losses(batch())).names == ("a", "b", "c")


def test_gradients_cleared_by_the_model_count_as_a_skipped_step():
    model, optimizer = make()
    optimizer.backward(model.losses(batch()))
    model.zero_grad()
    assert optimizer.backward(model.losses(batch())).names == ("a", "b", "c")


def test_step_with_rows_never_combined_is_refused():
    model, optimizer = make()
    loss = model.losses(batch())["a"]
    with optimizer.objective("a"):
        loss.backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="combine_\\(\\) first"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="never"):
        optimizer.step(lambda: model.losses(batch()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    optimizer.combine_()
    optimizer.step()
    assert not torch.equal(before[0], next(model.parameters()))


def test_combine_without_rows_is_refused():
    with pytest.raises(RuntimeError, match="no recorded objective"):
        make()[1].combine_()


def test_objective_without_backward_is_refused():
    _, optimizer = make()
    with (
        pytest.raises(RuntimeError, match="no gradient arrived in the block of 'a'"),
        optimizer.objective("a"),
    ):
        pass


def test_nested_objectives_are_refused():
    _, optimizer = make()
    with (
        pytest.raises(RuntimeError, match="inside objective\\('a'\\)"),
        optimizer.objective("a"),
        optimizer.objective("b"),
    ):
        pass


def test_an_exception_inside_objective_restores_the_gradients():
    model, optimizer = make()
    kept = torch.ones_like(next(model.parameters()))
    next(model.parameters()).grad = kept
    loss = model.losses(batch())["a"]
    handle = loss.register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError), optimizer.objective("a"):
        loss.backward()
    handle.remove()
    assert next(model.parameters()).grad is kept
    with optimizer.objective("a"):
        model.losses(batch())["a"].backward()
    assert optimizer.combine_().names == ("a",)


def test_a_failing_backward_leaves_grad_as_it_was_and_drops_the_rows():
    model, optimizer = make()
    losses = model.losses(batch())
    losses["b"].register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.backward(losses)
    assert all(p.grad is None for p in model.parameters())
    optimizer.backward(model.losses(batch()))
    optimizer.step()


def test_plain_step_is_the_base_step_warns_once_and_is_counted():
    model, optimizer = make()
    plain = seeded(OneOutput)
    reference = torch.optim.SGD(plain.parameters(), lr=0.1)
    optimizer.step()
    assert optimizer.record.bypassed == 0
    for step in range(2):
        for net, opt in ((model, optimizer), (plain, reference)):
            opt.zero_grad()
            net.losses(batch())["a"].backward()
            if net is model and step == 0:
                with pytest.warns(UserWarning, match="no objective recorded"):
                    opt.step()
            else:
                opt.step()
    assert optimizer.record.bypassed == 2
    assert optimizer.record.as_dict()["bypassed"] == 2.0
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("losses", "error", "match"),
    [
        ({}, ValueError, "at least one objective"),
        ([], ValueError, "at least one objective"),
        (3.0, TypeError, "mapping name -> scalar"),
        ("ab", TypeError, "mapping name -> scalar"),
        ({"a": 1.0}, TypeError, "not loss.item"),
        ({1: torch.zeros((), requires_grad=True)}, TypeError, "must be str"),
        ({"a": torch.zeros(2, requires_grad=True)}, ValueError, "must be a scalar"),
        ({"a": torch.zeros(())}, ValueError, "does not require grad"),
        ({"a": torch.zeros((), dtype=torch.long)}, ValueError, "floating point"),
        (torch.zeros((), requires_grad=True), ValueError, "1-D"),
        (torch.zeros(2, 2, requires_grad=True), ValueError, "1-D"),
    ],
    ids=str,
)
def test_malformed_losses(losses, error, match):
    with pytest.raises(error, match=match):
        make()[1].backward(losses)


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda o: moopt.CommonDescent("adam"), TypeError, "instance of a torch optimizer"),
        (lambda o: moopt.CommonDescent(torch.optim.SGD), TypeError, "instance of a torch optim"),
        (lambda o: moopt.CommonDescent(moopt.CommonDescent(o)), TypeError, "instance of a torch"),
        (lambda o: moopt.CommonDescent(o, moopt.MGDA), TypeError, "Write MGDA\\(\\)"),
        (lambda o: moopt.CommonDescent(o, 3), TypeError, "must be a moopt weighting"),
        (lambda o: moopt.CommonDescent(o, "mgd"), ValueError, "MGDA"),
        (lambda o: moopt.CommonDescent(o, inactive_tol=-1.0), ValueError, "inactive_tol"),
        (lambda o: moopt.CommonDescent(o, inactive_tol=float("nan")), ValueError, "inactive_tol"),
        (lambda o: moopt.CommonDescent(o, record_every=0), ValueError, "record_every"),
    ],
)
def test_malformed_construction(build, error, match):
    model = seeded(OneOutput)
    with pytest.raises(error, match=match):
        build(torch.optim.SGD(model.parameters(), lr=0.1))


def test_functional_refuses_a_second_setting_and_bad_owners():
    model, optimizer = make()
    with pytest.raises(ValueError, match="belongs to the CommonDescent"):
        moopt.backward(model.losses(batch()), optimizer, moopt.Mean())
    with pytest.raises(TypeError, match="Pass \\[tensor\\]"):
        moopt.backward(model.losses(batch()), next(model.parameters()))
    with pytest.raises(ValueError, match="at least one parameter"):
        moopt.backward(model.losses(batch()), [])


# --------------------------------------------------------------------- objectives come and go


def test_objectives_come_and_go_with_state_by_name():
    model, optimizer = make(weighting=moopt.CRMOGM(moopt.MGDA(), momentum=0.5))
    average: dict[str, float] = {}

    def step(names, seed):
        optimizer.zero_grad()
        losses = model.losses(batch(seed))
        record = optimizer.backward({n: losses[n] for n in names})
        optimizer.step()
        fresh = moopt.MGDA()(moopt.StepStatistics(gramian=record.gramian)).weights.tolist()
        for name, weight in zip(names, fresh, strict=True):
            average[name] = 0.5 * average.get(name, weight) + 0.5 * weight
        total = sum(average[name] for name in names)
        expected = [average[name] / total for name in names]
        assert record.weights.tolist() == pytest.approx(expected, abs=1e-12)

    step("ab", 0)
    step("cb", 1)  # `a` is absent, `c` is new
    step("ca", 2)  # `a` finds the average of the first step
    step("abc", 3)


def test_order_of_the_objectives_does_not_matter():
    directions = []
    for names in ("abc", "cab"):
        model, optimizer = make()
        losses = model.losses(batch())
        optimizer.backward({n: losses[n] for n in names})
        directions.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(directions[0], directions[1], rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------ inactive and record


def test_an_objective_at_its_noise_floor_is_inactive_and_the_step_is_the_one_without_it():
    def step(with_noise, **options):
        model, optimizer = make(**options)
        losses = model.losses(batch())
        if with_noise:
            losses["noise"] = 1.0 + 1e-7 * losses["c"]
        record = optimizer.backward(losses)
        return [p.grad for p in model.parameters()], record

    plain, _ = step(False)
    noisy, record = step(True)
    assert record.inactive == ("noise",)
    assert record.weights[3] == 0
    assert "inactive noise" in str(record)
    for a, b in zip(plain, noisy, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    # the naive rule gives the noise nearly all the weight
    naive, record = step(True, inactive_tol=0.0)
    assert record.inactive == ()
    assert record.weights[3] > 0.99
    assert sum(g.norm() for g in naive) < 1e-4 * sum(g.norm() for g in plain)


def test_record_every_with_sum_needs_one_backward_in_the_other_steps():
    def run(record_every):
        model, optimizer = make(TwoHeads, moopt.Sum(), record_every=record_every)
        passes = []
        for step in range(4):
            optimizer.zero_grad()
            losses = model.losses(batch(step))
            for loss in losses.values():
                loss.register_hook(lambda grad: passes.append(1))
            optimizer.backward(losses)
            optimizer.step()
        return [p.detach() for p in model.parameters()], optimizer.record

    every, last = run(1)
    thin, older = run(3)
    assert (last.step, older.step) == (3, 3)
    for a, b in zip(every, thin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    model, optimizer = make(TwoHeads, moopt.Sum(), record_every=3)
    calls = []
    for step in range(3):
        model.trunk.weight.register_hook(lambda g, step=step: calls.append(step)) if not step else 0
        optimizer.backward(model.losses(batch(step)))
        optimizer.step()
        optimizer.zero_grad()
    assert len(calls) == 2 + 1 + 1
    assert optimizer.record.step == 0


def test_a_status_prints_its_name():
    for status in moopt.SolverStatus:
        assert str(status) == f"{status}" == f"{status:s}" == status.name
        assert f"{status:>16}" == f"{status.name:>16}"
        assert f"{status:d}" == f"{int(status)}"
        assert json.loads(json.dumps(status)) == status.value
    model, optimizer = make()
    assert "CONVERGED" not in str(optimizer.backward(model.losses(batch())))
    optimizer.zero_grad()
    losses = model.losses(batch())
    record = optimizer.backward(losses | {"a": losses["a"] * float("nan")})
    assert f"{record.status}" == "NON_FINITE"
    assert str(record).endswith("; NON_FINITE")


def test_record_reads_as_plain_data():
    model, optimizer = make()
    assert str(optimizer.record) == "no step recorded yet"
    assert optimizer.record.as_dict() == {"bypassed": 0.0, "step": 0.0}
    with pytest.raises(RuntimeError, match="no step is recorded"):
        _ = optimizer.record.conflicts
    record = optimizer.backward(model.losses(batch()))
    as_dict = record.as_dict()
    assert all(type(v) is float for v in as_dict.values())
    assert {"loss/a", "weight/b", "norm/c", "cosine/a,b", "stationarity", "bypassed"} <= set(
        as_dict
    )
    assert {n for n in "abc" if as_dict[f"raised/{n}"]} == set(record.raised)
    assert "\n" not in str(record)
    assert record.cosines.diagonal().tolist() == pytest.approx([1.0] * 3)
    expected = {
        (a, b)
        for i, a in enumerate("abc")
        for j, b in enumerate("abc")
        if i < j and record.gramian[i, j] < 0
    }
    assert set(record.conflicts) == expected
    assert 0 <= record.stationarity <= 1


def test_non_finite_losses_reach_grad_and_never_raise():
    model, optimizer = make(weighting=moopt.CRMOGM(moopt.MGDA()))
    optimizer.backward(model.losses(batch()))
    before = {k: v for k, v in optimizer.param_groups[0].items() if str(k).startswith("moopt")}
    optimizer.zero_grad()
    losses = model.losses(batch())
    losses["a"] = losses["a"] * float("inf")
    record = optimizer.backward(losses)
    assert record.status is moopt.SolverStatus.NON_FINITE
    assert not all(torch.isfinite(p.grad).all() for p in model.parameters())
    after = optimizer.param_groups[0]
    assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))


def test_losses_are_required_where_the_weighting_needs_them():
    model, optimizer = make(weighting=moopt.MGDA(normalize="loss"))
    for name in "ab":
        with optimizer.objective(name):
            model.losses(batch())[name].backward()
    with pytest.raises(ValueError, match="needs the value of every loss"):
        optimizer.combine_()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype(dtype):
    model = seeded(OneOutput, dtype=dtype)
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.01))
    for step in range(3):
        optimizer.zero_grad()
        record = optimizer.backward(model.losses(batch(step, dtype=dtype)))
        optimizer.step()
        assert record.gramian.dtype == record.weights.dtype == torch.float64
    assert all(p.grad.dtype == dtype and torch.isfinite(p).all() for p in model.parameters())
