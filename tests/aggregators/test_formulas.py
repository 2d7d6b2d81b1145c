"""Each aggregator by hand: its rule, TorchJD's, masks, types, and what is not finite."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from moopt.aggregators import AGGREGATORS, SAGO, GradDrop, GradientAggregator, TrimmedMean
from moopt.weightings import Guarantee
from moopt.weightings.draws import draws
from tests.weightings.properties import dataclass_is_frozen

NAMES = ("f", "r", "x", "y", "z")
AGREEMENT = 1e-12  # two float64 sums of a few terms

BUILD = {
    "TrimmedMean": lambda: TrimmedMean(trim=1),
    "TrimmedMean 2": lambda: TrimmedMean(trim=2),
    "GradDrop": lambda: GradDrop(seed=1),
    "GradDrop leak": lambda: GradDrop(leak=dict.fromkeys(NAMES, 0.3), seed=2),
    "SAGO": lambda: SAGO(forget="f", retain=NAMES[1:]),
}


def rows(m: int = 5, n: int = 2000, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(m, n, dtype=torch.float64, generator=torch.manual_seed(seed)).to(dtype)


def combine(name: str, jacobian: torch.Tensor, names=None, **options) -> torch.Tensor:
    return BUILD[name]()(jacobian, names=names or NAMES[: len(jacobian)], **options)


# ----------------------------------------------------------------------------------- the rules


def test_sago_never_works_against_the_retain_gradient_in_any_entry():
    forget, retain = rows(2)
    direction = SAGO(forget="f", retain="r")([forget, retain], names=("f", "r"))
    conflict = forget * retain < 0
    assert torch.equal(direction, torch.where(conflict, retain, forget))
    assert (direction * retain >= 0).all()
    assert float(retain @ direction) > 0
    tiny = SAGO(forget="f", retain="r")([forget * 1e-200, retain * -1e-200], names=("f", "r"))
    assert torch.equal(tiny.sign(), -retain.sign().where(~conflict, -forget.sign()))


def test_sago_adds_up_the_objectives_of_a_role_and_takes_what_is_there():
    jacobian = rows(4)
    method = SAGO(forget=("f", "x"), retain=("r", "y"))
    together = method(jacobian, names=("f", "r", "x", "y"))
    pair = SAGO(forget="f", retain="r")(
        [jacobian[0] + jacobian[2], jacobian[1] + jacobian[3]], names=("f", "r")
    )
    assert torch.equal(together, pair)
    assert torch.equal(method(jacobian[:1], names=("f",)), jacobian[0])
    assert torch.equal(method(jacobian[1:2], names=("r",)), jacobian[1])
    off = torch.tensor([False, True])
    assert torch.equal(method(jacobian[:2], names=("f", "r"), active=off), jacobian[1])


def test_grad_drop_keeps_one_sign_with_the_probability_of_its_purity():
    column = torch.tensor([[3.0], [1.0], [-1.0]]).expand(3, 40000)
    direction = GradDrop()(column)
    assert set(direction.unique().tolist()) == {-1.0, 4.0}
    share = float((direction > 0).double().mean())
    assert abs(share - 0.8) < 4 * (0.8 * 0.2 / 40000) ** 0.5  # P = (1 + 3/5) / 2
    pure = rows(3).abs()
    assert torch.equal(GradDrop()(pure), pure.sum(0))
    assert torch.equal(GradDrop()(-pure), -pure.sum(0))
    assert torch.equal(GradDrop()(torch.zeros(3, 4)), torch.zeros(4))


def test_grad_drop_leaks_a_share_of_what_it_drops():
    jacobian = rows(3)
    kept = GradDrop()(jacobian)
    leaked = GradDrop(leak=[0.25] * 3)(jacobian)
    torch.testing.assert_close(leaked, 0.25 * jacobian.sum(0) + 0.75 * kept)
    assert torch.equal(GradDrop(leak=[1.0] * 3)(jacobian), jacobian.sum(0))


def test_grad_drop_draws_anew_in_every_step_and_parameter():
    jacobian, method = rows(3), GradDrop()
    state = method.initial_state(3)
    first = method(jacobian, state=state)
    assert torch.equal(first, method(jacobian, state=state))
    later = method(jacobian, state=method.next_state(state))
    elsewhere = method(jacobian, state=state, position=1)
    seeded = GradDrop(seed=1)(jacobian, state=state)
    for other in (later, elsewhere, seeded):
        assert 0.2 < float((first == other).double().mean()) < 0.95


@pytest.mark.parametrize("trim", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_torchjd_agrees_on_the_trimmed_mean(trim, seed):
    peer = pytest.importorskip("torchjd.aggregation")
    jacobian = rows(seed=seed)
    expected = peer.TrimmedMean(trim_number=trim)(jacobian)
    torch.testing.assert_close(
        TrimmedMean(trim=trim)(jacobian), expected, rtol=AGREEMENT, atol=AGREEMENT
    )


def test_torchjd_agrees_on_grad_drop_given_its_random_numbers(monkeypatch):
    peer = pytest.importorskip("torchjd.aggregation")
    jacobian = rows()
    uniform = torch.from_numpy(draws(3, 0).random(jacobian.shape[1], dtype=np.float32))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: uniform)
    leak = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = peer.GradDrop(leak=leak)(jacobian)
    ours = GradDrop(seed=3, leak=leak)(jacobian)
    torch.testing.assert_close(ours, expected, rtol=AGREEMENT, atol=AGREEMENT)


def test_a_corrupt_objective_does_not_move_the_trimmed_mean_far():
    honest = 1.0 + 0.1 * rows(4)
    attacked = torch.cat([honest, torch.full((1, honest.shape[1]), 1e6, dtype=torch.float64)])
    assert float((TrimmedMean(trim=1)(attacked) - 1.0).abs().max()) < 1.0
    assert float((attacked.mean(0) - 1.0).abs().min()) > 1e5


# ------------------------------------------------------------------------------------ contract


@pytest.mark.parametrize("name", BUILD)
def test_masked_objectives_have_no_influence(name):
    """For SAGO and GradDrop as if they were not there; TrimmedMean then cuts the others."""
    jacobian = rows()
    active = torch.tensor([True, True, False, True, False])
    poisoned = jacobian.clone()
    poisoned[~active] = float("nan")
    masked = combine(name, poisoned, active=active)
    kept = [n for n, on in zip(NAMES, active.tolist(), strict=True) if on]
    trim = {"TrimmedMean 2": "TrimmedMean"}.get(name, name)  # as many as leave one of three
    dropped = combine(trim, jacobian[active], names=kept)
    torch.testing.assert_close(masked, dropped, rtol=AGREEMENT, atol=AGREEMENT)
    nothing = combine(name, poisoned, active=torch.zeros(5, dtype=torch.bool))
    assert (nothing == 0).all()


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_entry_that_is_not_finite_stays_visible(name, bad):
    jacobian = rows()
    jacobian[2, 7] = bad
    direction = combine(name, jacobian)
    assert not torch.isfinite(direction[7])
    assert torch.isfinite(direction).sum() == direction.numel() - 1


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_and_shape(name, dtype):
    jacobian = rows(n=24, dtype=dtype)
    flat = combine(name, jacobian)
    assert flat.dtype == dtype
    cube = combine(name, jacobian.reshape(5, 2, 3, 4))
    assert torch.equal(cube.flatten(), flat)
    wide = combine(name, jacobian.double()).to(dtype)
    torch.testing.assert_close(flat, wide, rtol=4 * torch.finfo(dtype).eps, atol=1e-3)
    scalar = combine(name, jacobian[:, 0])
    assert scalar.shape == ()


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_directions_scale_with_the_gradients(name, scale):
    jacobian = rows()
    torch.testing.assert_close(
        combine(name, scale * jacobian), scale * combine(name, jacobian), rtol=AGREEMENT, atol=0
    )


@pytest.mark.parametrize("name", BUILD)
def test_inputs_are_not_written_to_and_methods_can_be_pickled(name):
    jacobian = rows()
    before = jacobian.clone()
    direction = combine(name, jacobian)
    assert torch.equal(jacobian, before)
    copied = pickle.loads(pickle.dumps(BUILD[name]()))
    assert torch.equal(copied(jacobian, names=NAMES), direction)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_rows_follow_the_rules_of_the_library(name):
    row = AGGREGATORS[name]
    assert dataclass_is_frozen(row.weighting_class)
    assert row.weighting_class.__name__ == row.name == name
    assert str(row.year) in row.source
    assert isinstance(row.example(), GradientAggregator)
    assert Guarantee.NON_CONFLICTING not in row.guarantees()


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: TrimmedMean(trim=-1), ValueError, "`trim` of `TrimmedMean`"),
        (lambda: TrimmedMean(trim=1.5), ValueError, "`trim` of `TrimmedMean`"),
        (lambda: TrimmedMean()(rows(2)), ValueError, "at least 3; got 2"),
        (lambda: GradDrop(leak=[1.5]), ValueError, r"in \[0, 1\]"),
        (lambda: GradDrop(leak="ab"), TypeError, "sequence of numbers"),
        (lambda: GradDrop(seed=1.0), TypeError, "`seed` of `GradDrop`"),
        (lambda: GradDrop(leak=[0.1])(rows(2)), ValueError, "got 1 for 2 objectives"),
        (lambda: GradDrop()(rows(2).to(torch.complex64)), TypeError, "real floating point"),
        (lambda: SAGO(forget="f", retain="f"), ValueError, "must not repeat"),
        (lambda: SAGO(forget="f", retain="r")(rows(2)), ValueError, "needs the objectives' names"),
        (
            lambda: SAGO(forget="f", retain="r")(rows(2), names=("f", "q")),
            ValueError,
            r"\['q'\] have none",
        ),
    ],
)
def test_errors_name_the_rule_and_the_remedy(build, error, match):
    with pytest.raises(error, match=match):
        build()
