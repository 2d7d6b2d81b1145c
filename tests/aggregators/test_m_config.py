"""MConFIG with one loss per step: against its definition and its authors' code, and what counts."""

from __future__ import annotations

import io

import pytest
import torch

import moopt
from moopt.aggregators import MConFIG
from tests.optimizer.problems import OneOutput, TwoHeads, batch, jacobian, parameters_of, seeded

RTOL = 1e-9
"""float64 against the same few operations in another order."""

PEER_TOL = 1e-6
"""Agreement with a peer that solves the least-squares problem in another way."""


def make(cls=OneOutput, dtype=torch.float64, method=None, lr=0.05, **options):
    model = seeded(cls, dtype=dtype)
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    return model, moopt.CommonDescent(sgd, method or MConFIG(), **options)


def one_by_one(model, optimizer, steps):
    """One loss per step, in turn: its name, its gradient and the record."""
    dtype = next(model.parameters()).dtype
    for step in steps:
        optimizer.zero_grad()
        losses = model.losses(batch(step, dtype=dtype))
        name = list(losses)[step % len(losses)]
        gradient = jacobian({name: losses[name]}, list(model.parameters()))[0]
        yield name, gradient, optimizer.backward({name: losses[name]})
        optimizer.step()


def run(model, optimizer, steps):
    for _ in one_by_one(model, optimizer, steps):
        pass


def flat_gradient(model):
    """Zero where no known loss reaches a parameter."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients])


def config(rows):
    """ConFIG by the pseudo-inverse of the unit rows."""
    u = torch.linalg.pinv(rows / rows.norm(dim=1, keepdim=True)).sum(1)
    u = u / u.norm()
    return (rows @ u).sum() * u


@pytest.mark.parametrize("cls", [OneOutput, TwoHeads])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_absent_losses_count_with_their_corrected_momentum(cls, beta):
    """Heads too: in most steps the head of an absent loss has no gradient at all."""
    model, optimizer = make(cls, method=MConFIG(beta=beta))
    momenta, counts = {}, {}
    for name, gradient, record in one_by_one(model, optimizer, range(8)):
        momenta[name] = beta * momenta.get(name, 0.0) + (1 - beta) * gradient
        counts[name] = counts.get(name, 0) + 1
        rows = torch.stack([momenta[n] / (1 - beta ** counts[n]) for n in momenta])
        expected = config(rows)
        torch.testing.assert_close(flat_gradient(model), expected, rtol=RTOL, atol=1e-12)
        assert record.names == (name,)
        torch.testing.assert_close(record.slopes, -(gradient @ expected)[None], rtol=RTOL, atol=0)
        assert (rows @ expected > 0).all()  # no momentum is in conflict
    assert len(counts) == (3 if cls is OneOutput else 2)
    assert float((expected - gradient).norm()) > 0.1 * float(gradient.norm())


class Recording:
    """A gradient operator of the authors' code that keeps what it returned."""

    def __init__(self, operator):
        self.operator, self.last = operator, None

    def calculate_gradient(self, *arguments):
        self.last = self.operator.calculate_gradient(*arguments)
        return self.last


@pytest.fixture
def double_by_default():
    """The authors' code makes tensors of the default dtype."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(previous)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("given", [1, 2])
def test_the_authors_code_agrees(given):
    """Its direction is ours; what it then does is Adam's second moment, written out here."""
    momentum_operator = pytest.importorskip("conflictfree.momentum_operator")
    grad_operator = pytest.importorskip("conflictfree.grad_operator")
    recording = Recording(grad_operator.ConFIGOperator())
    theirs = momentum_operator.PseudoMomentumOperator(3, gradient_operator=recording)
    w = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MConFIG())
    generator = torch.Generator().manual_seed(0)
    previous, second, known, compared = torch.zeros(7).double(), torch.zeros(7).double(), set(), 0
    for step in range(12):
        indices = [(step + k) % 3 for k in range(given)]
        gradients = torch.randn(given, 7, generator=generator, dtype=torch.float64)
        known |= set(indices)
        final = theirs.calculate_gradient(indices, list(gradients))
        optimizer.zero_grad()
        rows = zip(indices, gradients, strict=True)
        optimizer.backward({f"loss {i}": gradient @ w for i, gradient in rows})
        optimizer.step()
        if len(known) < 3:
            assert not final.any()  # theirs waits for all
            continue
        compared += 1
        torch.testing.assert_close(w.grad, recording.last, rtol=PEER_TOL, atol=PEER_TOL)
        moment = w.grad * (1 - 0.9**compared)
        second = 0.999 * second + 0.001 * ((moment - 0.9 * previous) / 0.1) ** 2
        previous = moment
        size = (second / (1 - 0.999**compared)).sqrt() + 1e-8
        torch.testing.assert_close(w.grad / size, final, rtol=PEER_TOL, atol=PEER_TOL)
    assert compared >= 10


def test_save_load_resume_is_bit_equal_with_one_loss_per_step():
    model, optimizer = make(dtype=torch.float32)
    run(model, optimizer, range(4))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    run(model, optimizer, range(4, 7))
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)

    def continued(load):
        other, resumed = make(dtype=torch.float32)
        other.load_state_dict(weights)
        if load:
            resumed.load_state_dict(state)
        run(other, resumed, range(4, 7))
        return parameters_of(other)

    pairs = list(zip(parameters_of(model), continued(True), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = list(zip(parameters_of(model), continued(False), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_a_named_loss_that_was_never_given_has_no_say():
    plain, reference = make()
    model, optimizer = make(objectives=("c", "never", "b", "a"))
    run(plain, reference, range(5))
    run(model, optimizer, range(5))
    for a, b in zip(parameters_of(plain), parameters_of(model), strict=True):
        torch.testing.assert_close(a, b, rtol=RTOL, atol=0)
    counts = optimizer.param_groups[0]["moopt_state_num_steps"]
    assert counts.tolist() == [1, 0, 2, 2]


def test_parameters_outside_shared_take_the_gradients_of_the_step():
    model = seeded(TwoHeads, dtype=torch.float64)
    trunk = list(model.trunk.parameters())
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    optimizer = moopt.CommonDescent(sgd, MConFIG(), shared=trunk)
    width, momenta = sum(p.numel() for p in trunk), {}
    for name, gradient, _ in one_by_one(model, optimizer, range(2)):
        momenta[name] = gradient[:width]
        combined = torch.cat([p.grad.flatten() for p in trunk])
        expected = config(torch.stack(list(momenta.values())))
        torch.testing.assert_close(combined, expected, rtol=RTOL, atol=1e-12)
        own = getattr(model, name)
        other = model.second if name == "first" else model.first
        assert own.weight.grad is not None
        assert other.weight.grad is None
        heads = torch.cat([p.grad.flatten() for p in own.parameters()])
        torch.testing.assert_close(heads, gradient[width:][gradient[width:] != 0])


def test_a_gradient_that_vanishes_is_forgotten():
    """Its momentum goes to zero, and once it is noise beside the others it has no say."""
    w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MConFIG(beta=0.1))
    one, other = torch.eye(3, dtype=torch.float64)[:2]

    def step(size):
        optimizer.zero_grad()
        record = optimizer.backward({"one": one @ w, "other": size * (other @ w)})
        optimizer.step()
        return record

    assert step(1.0).inactive == ()
    torch.testing.assert_close(w.grad, one + other, rtol=RTOL, atol=0)
    for _ in range(3):
        assert step(0.0).inactive == ()
    for _ in range(3):
        record = step(0.0)
    assert record.inactive == ("other",)
    torch.testing.assert_close(w.grad, one, rtol=RTOL, atol=0)


def test_a_step_whose_only_gradient_is_zero_goes_on():
    """What cancels is told by the momenta of all: DEGENERATE reads "stop"."""
    w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MConFIG())
    rows = torch.eye(3, dtype=torch.float64)[:2]

    def step(row, name):
        optimizer.zero_grad()
        record = optimizer.backward({name: row @ w})
        optimizer.step()
        return record.status

    assert step(0.0 * rows[0], "flat") is moopt.SolverStatus.CONVERGED  # the others are not known
    assert step(rows[0], "one") is moopt.SolverStatus.CONVERGED
    assert step(0.0 * rows[0], "flat") is moopt.SolverStatus.CONVERGED
    torch.testing.assert_close(w.grad, rows[0], rtol=RTOL, atol=0)
    for _ in range(2):
        assert step(0.0 * rows[1], "other") is moopt.SolverStatus.CONVERGED
        assert step(rows[1], "other") is moopt.SolverStatus.CONVERGED
        assert float(w.grad @ rows[0]) > 0
        assert float(w.grad @ rows[1]) > 0


def test_one_vanished_gradient_among_several_does_not_say_stop():
    """Its momentum is alive, so it counts; that its gradient is zero now makes nothing cancel."""
    w = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MConFIG())
    rows = torch.eye(3, dtype=torch.float64)[:2]
    for size in (1.0, 0.0):
        optimizer.zero_grad()
        record = optimizer.backward({"one": rows[0] @ w, "other": size * (rows[1] @ w)})
        optimizer.step()
        assert record.inactive == ()
        assert record.status is moopt.SolverStatus.CONVERGED
        assert float(w.grad.norm()) > 0


def test_momenta_that_cancel_say_stop():
    w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = moopt.CommonDescent(torch.optim.SGD([w], lr=0.0), MConFIG())
    for name, sign in (("one", 1.0), ("other", -1.0)):
        optimizer.zero_grad()
        record = optimizer.backward({name: sign * w.sum()})
        optimizer.step()
    assert record.status is moopt.SolverStatus.DEGENERATE
    assert not w.grad.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_single_loss_that_is_not_finite_leaves_rows_and_state(bad):
    model, optimizer = make()
    run(model, optimizer, range(3))
    group = optimizer.param_groups[0]
    kept = {k: v.clone() for k, v in group.items() if k.startswith("moopt_") and torch.is_tensor(v)}
    optimizer.zero_grad()
    record = optimizer.backward({"a": model.losses(batch(dtype=torch.float64))["a"] * bad})
    assert record.status is moopt.SolverStatus.NON_FINITE
    assert not torch.isfinite(flat_gradient(model)).any()
    assert all(torch.equal(group[key], value) for key, value in kept.items())
    optimizer.zero_grad()
    optimizer.backward({"b": model.losses(batch(dtype=torch.float64))["b"]})
    assert torch.isfinite(flat_gradient(model)).all()


def test_every_way_in_is_the_same_step_with_one_loss():
    def trained(way):
        model, optimizer = make()
        state: dict = {}
        for step in range(4):
            optimizer.zero_grad()
            losses = model.losses(batch(step, dtype=torch.float64))
            name = list(losses)[step % 3]
            if way == "functional":
                moopt.backward({name: losses[name]}, model.parameters(), MConFIG(), state=state)
                optimizer.optimizer.step()
                continue
            if way == "objective":
                with optimizer.objective(name):
                    losses[name].backward()
                optimizer.combine_()
            else:
                scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if way == "scaler" else None
                optimizer.backward({name: losses[name]}, scaler=scaler)
                if scaler is not None:
                    scaler.unscale_(optimizer)
            optimizer.step()
        return parameters_of(model)

    for way in ("objective", "functional", "scaler"):
        for a, b in zip(trained("backward"), trained(way), strict=True):
            torch.testing.assert_close(a, b, rtol=RTOL, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_with_one_loss(dtype):
    model, optimizer = make(TwoHeads, dtype=dtype)
    run(model, optimizer, range(5))
    assert all(p.grad.dtype == dtype and torch.isfinite(p).all() for p in model.parameters())
    rows = optimizer.param_groups[0]["moopt_rows_momentum_0"]
    assert rows.dtype == torch.promote_types(dtype, torch.float32)


def test_training_one_loss_per_step_lowers_them_all():
    model, optimizer = make(lr=0.02)
    x = batch(dtype=torch.float64)

    def values():
        with torch.no_grad():
            return torch.stack(list(model.losses(x).values()))

    first = values()
    for step in range(300):
        optimizer.zero_grad()
        losses = model.losses(x)
        name = list(losses)[step % 3]
        optimizer.backward({name: losses[name]})
        optimizer.step()
    assert (values() < first).all()


@pytest.mark.parametrize("objectives", [None, ("a", "b")])
def test_a_parameter_that_no_loss_reaches_is_left_alone(objectives):
    """Also where `objectives=` allocates its rows: a gradient of zero would let AdamW decay it."""
    reached, never = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    base = torch.optim.AdamW([reached, never], lr=0.1, weight_decay=0.5)
    optimizer = moopt.CommonDescent(base, MConFIG(), objectives=objectives)
    for step in range(4):
        optimizer.zero_grad()
        optimizer.backward({"ab"[step % 2]: (reached - step).square().sum()})
        optimizer.step()
    assert never.grad is None
    assert never.tolist() == [1.0, 1.0]
