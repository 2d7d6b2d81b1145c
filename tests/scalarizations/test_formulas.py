"""Each method's defining formula: autograd of the formula, closed forms, and TorchJD's."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from moopt import scalarizations
from moopt.records.step_statistics import StepStatistics
from moopt.scalarizations import (
    COSMOS,
    DWA,
    FAMO,
    GLS,
    IMTLL,
    PBI,
    RLW,
    STCH,
    UW,
    AugmentedTchebycheff,
)

FORMULA_RTOL = 1e-12
"""Two float64 ways to one number of a few terms."""

TORCHJD_RTOL = 1e-6
"""Agreement with a peer that adds 1e-8 or 1e-12 under roots and logarithms."""

LOSSES = torch.tensor([0.7, 2.5, 1.3], dtype=torch.float64)
P = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
Z = torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64)
NAMES = ("a", "b", "c")


def weigh(weighting, losses: Tensor = LOSSES, state=None, names=NAMES):
    m = len(losses)
    return weighting(StepStatistics(gramian=torch.eye(m), losses=losses, names=names[:m]), state)


def by_autograd(scalar, losses: Tensor = LOSSES) -> Tensor:
    leaf = losses.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(leaf), leaf)
    return gradient


def close(a: Tensor, b: Tensor, rtol: float = FORMULA_RTOL) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


# Written out once more, from the papers, without masks and without care for overflow.
FORMULAS = {
    "STCH": (
        STCH(preference=P, reference=Z, mu=0.3),
        lambda x: 0.3 * (P * (x - Z) / 0.3).exp().sum().log(),
    ),
    "STCH default": (STCH(), lambda x: 0.1 * (x / 3 / 0.1).exp().sum().log()),
    "AugmentedTchebycheff": (
        AugmentedTchebycheff(preference=P, reference=Z, rho=0.2),
        lambda x: (P * (x - Z)).max() + 0.2 * (x - Z).sum(),
    ),
    "PBI": (
        PBI(preference=P, reference=Z, theta=2.0),
        lambda x: (x - Z) @ P / P.norm() + 2.0 * ((x - Z) - ((x - Z) @ P) * P / (P @ P)).norm(),
    ),
    "COSMOS": (
        COSMOS(preference=P, penalty=3.0),
        lambda x: (P * x).sum() - 3.0 * cosine_similarity(P, x, dim=0),
    ),
    "GLS": (GLS(), lambda x: x.prod() ** (1 / 3)),
    "UW": (UW(), lambda x: 0.5 * x.sum()),
    "IMTLL": (IMTLL(), lambda x: x.sum()),
    "DWA": (DWA(), lambda x: x.sum()),
    "FAMO": (
        FAMO(min_losses=[0.1, -0.2, 0.05], eps=1e-3),
        lambda x: (x - Z + 1e-3).log().sum() / (1.0 / (x.detach() - Z + 1e-3)).sum(),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_weights_are_the_derivative_of_the_formula(name: str) -> None:
    weighting, formula = FORMULAS[name]
    close(weigh(weighting).weights, by_autograd(formula))


FUNCTIONS = {
    "stch": (STCH(preference=P, mu=0.3), lambda x: scalarizations.stch(x, P, mu=0.3)),
    "augmented_tchebycheff": (
        AugmentedTchebycheff(preference=P),
        lambda x: scalarizations.augmented_tchebycheff(x, P),
    ),
    "pbi": (PBI(preference=P), lambda x: scalarizations.pbi(x, P)),
    "cosmos": (COSMOS(preference=P), lambda x: scalarizations.cosmos(x, P)),
    "gls": (GLS(), scalarizations.gls),
    "uw": (UW(), lambda x: scalarizations.uw(x, torch.zeros(3, dtype=x.dtype))),
    "imtl_l": (IMTLL(), lambda x: scalarizations.imtl_l(x, torch.zeros(3, dtype=x.dtype))),
    "dwa": (DWA(), scalarizations.dwa),
    "famo": (FAMO(), lambda x: scalarizations.famo(x, torch.zeros(3, dtype=x.dtype))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_public_functions_are_plain_losses(name: str, dtype: torch.dtype) -> None:
    """Differentiable, in the dtype of the losses, with the class's weights as their gradient."""
    weighting, function = FUNCTIONS[name]
    losses = LOSSES.to(dtype).clone().requires_grad_()
    scalar = function(losses)
    assert scalar.shape == ()
    assert scalar.dtype == dtype
    scalar.backward()
    expected = weigh(weighting, losses.detach()).weights
    rtol = FORMULA_RTOL if dtype == torch.float64 else 16 * torch.finfo(dtype).eps
    close(losses.grad.double(), expected, rtol)


def test_batches_of_losses_are_independent() -> None:
    batch = torch.stack([LOSSES, LOSSES.flip(0)])
    for name, (_, function) in FUNCTIONS.items():
        if name not in ("uw", "imtl_l"):
            together = function(batch)
            alone = torch.stack([function(one) for one in batch])
            torch.testing.assert_close(together, alone, msg=name)


# ------------------------------------------------------------------------------------- TorchJD


def torchjd_of(name: str):
    peer = pytest.importorskip("torchjd.scalarization")
    return {
        "STCH": lambda: (peer.STCH(0.3, P, Z), STCH(preference=P, reference=Z, mu=0.3)),
        "PBI": lambda: (peer.PBI(2.0, P, Z), PBI(preference=P, reference=Z, theta=2.0)),
        "COSMOS": lambda: (peer.COSMOS(3.0, P), COSMOS(preference=P, penalty=3.0)),
        "GLS": lambda: (peer.GeometricMean(), GLS()),
        "UW": lambda: (peer.UW(3).double(), UW()),
        "IMTLL": lambda: (peer.IMTLL(3).double(), IMTLL()),
    }[name]()


@pytest.mark.parametrize("name", ["STCH", "PBI", "COSMOS", "GLS", "UW", "IMTLL"])
@pytest.mark.parametrize("seed", range(5))
def test_torchjd_agrees(name: str, seed: int) -> None:
    theirs, ours = torchjd_of(name)
    losses = torch.rand(3, dtype=torch.float64, generator=torch.manual_seed(seed)) + 0.1
    close(weigh(ours, losses).weights, by_autograd(theirs, losses), TORCHJD_RTOL)


def test_torchjd_agrees_on_dwa_over_epochs() -> None:
    peer = pytest.importorskip("torchjd.scalarization")
    theirs, ours, state = peer.DWA(temperature=0.5), DWA(steps_per_epoch=4, temperature=0.5), None
    generator = torch.manual_seed(0)
    drawn = set()
    for step in range(16):
        losses = torch.rand(3, dtype=torch.float64, generator=generator) + 0.1
        expected = by_autograd(theirs, losses)
        weights, state, _ = weigh(ours, losses, state)
        close(weights, expected, TORCHJD_RTOL)
        drawn.add(round(float(weights[0]), 6))
        if step % 4 == 3:
            theirs.step()
    assert len(drawn) == 3  # uniform for two epochs, then new ones in each


def test_torchjd_agrees_on_famo_over_updates() -> None:
    peer = pytest.importorskip("torchjd.scalarization")
    theirs = peer.FAMO(3, min_losses=Z.clone(), lr=0.1, weight_decay=1e-2).double()
    ours = FAMO(min_losses=Z.tolist(), lr=0.1, weight_decay=1e-2)
    state, generator = None, torch.manual_seed(0)
    for _ in range(10):
        before = torch.rand(3, dtype=torch.float64, generator=generator) + 0.1
        after = before * (0.5 + torch.rand(3, dtype=torch.float64, generator=generator))
        expected = by_autograd(theirs, before)
        weights, state, _ = weigh(ours, before, state)
        close(weights, expected, TORCHJD_RTOL)
        theirs.update(after)
        state = ours.observe(state, after, names=NAMES)
    assert float((weights - 1 / 3).abs().max()) > 0.05


# --------------------------------------------------------------------------- what each one does


def test_stch_goes_from_the_preference_to_the_worst() -> None:
    wide = weigh(STCH(preference=P, mu=1e6)).weights
    close(wide, P / 3, 1e-5)
    narrow = weigh(STCH(preference=[1.0, 1.0, 1.0], mu=1e-3)).weights
    assert narrow.tolist() == [0.0, 1.0, 0.0]
    huge = weigh(STCH(preference=[1.0, 1.0, 1.0], mu=1e-3), LOSSES * 1e300).weights
    assert huge.tolist() == [0.0, 1.0, 0.0]
    value = scalarizations.stch(LOSSES, P, mu=0.2)
    assert (
        float((P * LOSSES).max()) <= float(value) <= float((P * LOSSES).max()) + 0.2 * math.log(3)
    )


def test_ties_of_the_maximum_share_its_derivative() -> None:
    tied = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)
    weights = weigh(AugmentedTchebycheff(preference=[1.0] * 3, rho=0.0), tied).weights
    assert weights.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e30])
def test_pbi_on_the_ray_has_no_penalty_and_does_not_depend_on_the_scale(scale: float) -> None:
    unit = P / P.norm()
    for distance in (1.0, 3.7):
        on_ray = weigh(PBI(preference=P), scale * distance * P).weights
        close(on_ray, unit)
    off = weigh(PBI(preference=P), scale * LOSSES).weights
    close(off, weigh(PBI(preference=P), LOSSES).weights)
    assert (off < 0).any()  # documented: below the ray an objective is raised


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_gls_is_the_geometric_mean_at_every_scale(scale: float) -> None:
    weights = weigh(GLS(), scale * LOSSES).weights
    products = weights * LOSSES  # w_i loss_i is the same for all
    close(products, products[0].expand(3))
    many = torch.full((200,), 1e-300, dtype=torch.float64)
    assert float(scalarizations.gls(many)) == pytest.approx(1e-300, rel=1e-9)


def test_learned_scales_settle_at_the_losses() -> None:
    state = {"UW": None, "IMTLL": None}
    for _ in range(4000):
        for weighting in (UW(lr=0.05), IMTLL(lr=0.05)):
            weights, state[weighting.name], _ = weigh(weighting, state=state[weighting.name])
            final = weights * LOSSES
    close(state["UW"]["log_variances"], LOSSES.log())
    close(state["IMTLL"]["log_scales"], -LOSSES.log())
    close(final, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("weighting", "function", "key"),
    [
        (UW(lr=0.3), scalarizations.uw, "log_variances"),
        (IMTLL(lr=0.3), scalarizations.imtl_l, "log_scales"),
    ],
)
def test_learned_scales_are_joint_sgd(weighting, function, key) -> None:
    learned = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    sgd = torch.optim.SGD([learned], lr=0.3)
    state = None
    for step in range(5):
        losses = (LOSSES + 0.1 * step).detach().requires_grad_()
        sgd.zero_grad()
        function(losses, learned).backward()
        weights, state, _ = weigh(weighting, losses.detach(), state)
        close(weights, losses.grad)
        sgd.step()
        close(state[key], learned.detach())


def test_dwa_remembers_each_objective_by_itself() -> None:
    weighting, state = DWA(steps_per_epoch=1, temperature=1.0), None
    mask = torch.tensor([True, False, True])
    for losses in ([1.0, 1.0, 1.0], [0.5, 9.0, 1.0]):
        given = StepStatistics(
            gramian=torch.eye(3), losses=torch.tensor(losses, dtype=torch.float64), active=mask
        )
        weights, state, _ = weighting(given, state)
    assert state["last_average"].tolist() == [0.5, 0.0, 1.0]
    weights, state, _ = weigh(weighting, LOSSES, state)
    rates = torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)  # the second has no history yet
    close(weights, 3 * rates.softmax(0))


def test_rlw_weights_are_normal_noise_in_a_softmax() -> None:
    weighting, state, logs = RLW(seed=3), None, []
    for _ in range(2000):
        weights, state, _ = weigh(weighting, torch.ones(2, dtype=torch.float64), state)
        logs.append(float(weights.log()[0] - weights.log()[1]))
    differences = torch.tensor(logs)  # of two standard normals: variance 2
    assert abs(float(differences.mean())) < 4 * math.sqrt(2 / 2000)
    assert float(differences.var()) == pytest.approx(2.0, rel=0.15)
    assert int(state["counter"]) == 2000
    first = weigh(RLW(seed=3)).weights
    assert torch.equal(first, weigh(RLW(seed=3)).weights)
    assert not torch.equal(first, weigh(RLW(seed=4)).weights)


def test_famo_takes_weight_from_what_falls_fastest() -> None:
    weighting = FAMO(lr=0.1)
    _, state, _ = weigh(weighting)
    state = weighting.observe(state, LOSSES * torch.tensor([0.5, 1.0, 0.9]), names=NAMES)
    assert state["logits"].argsort().tolist() == [0, 2, 1]
    later = weigh(weighting, state=state).weights
    assert later[0] < weigh(weighting).weights[0]


def test_famo_learns_nothing_twice_nor_from_what_is_not_finite() -> None:
    weighting = FAMO()
    _, state, _ = weigh(weighting)
    once = weighting.observe(state, LOSSES * 0.5, names=NAMES)
    twice = weighting.observe(once, LOSSES * 0.1, names=NAMES)
    for key in once:
        assert torch.equal(once[key], twice[key])
    bad = LOSSES * torch.tensor([float("nan"), 0.5, 0.9])
    part = weighting.observe(state, bad, names=NAMES)
    assert part["logits"][0] == 0.0
    assert (part["logits"][1:] != 0).all()
    assert part["num_updates"].tolist() == [0, 1, 1]
    assert all(torch.isfinite(v).all() for k, v in part.items() if k != "log_losses")
    # a broken step between does not leave the losses of an older one behind
    _, broken, _ = weigh(weighting, bad, state)
    unchanged = weighting.observe(broken, LOSSES, names=NAMES)
    assert torch.equal(unchanged["logits"], state["logits"])


def test_observing_without_a_use_for_it_is_refused() -> None:
    with pytest.raises(TypeError, match="STCH does not look at the losses after"):
        STCH().observe({}, LOSSES)


# ------------------------------------------------------------------------ preferences and errors


def test_a_mapping_goes_by_name_and_equals_the_sequence() -> None:
    named = {"c": 0.3, "absent": 7.0, "a": 0.5, "b": 0.2}
    for make in (STCH, AugmentedTchebycheff, PBI, COSMOS):
        by_name, by_position = make(preference=named), make(preference=[0.5, 0.2, 0.3])
        assert torch.equal(weigh(by_name).weights, weigh(by_position).weights)
        assert by_name.needs == {"losses", "names"}
        assert by_position.needs == {"losses"}
        with pytest.raises(ValueError, match="needs the objectives' names"):
            by_name(StepStatistics(gramian=torch.eye(3), losses=LOSSES))
        with pytest.raises(ValueError, match=r"\['d'\] are missing"):
            weigh(by_name, names=("a", "b", "d"))
        with pytest.raises(ValueError, match="got 3 for 2 objectives"):
            weigh(by_position, LOSSES[:2])
        assert pickle.loads(pickle.dumps(by_name)) == by_name


def test_the_callers_changes_do_not_reach_it() -> None:
    given = {"a": 1.0, "b": 1.0, "c": 1.0}
    weighting = STCH(preference=given)
    before = weigh(weighting).weights
    given["a"] = 100.0
    assert torch.equal(weigh(weighting).weights, before)


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: STCH(mu=0.0), ValueError, "`mu` of `STCH`"),
        (lambda: STCH(mu=float("inf")), ValueError, "`mu` of `STCH`"),
        (lambda: STCH(preference="ab"), TypeError, "sequence of numbers"),
        (lambda: STCH(preference=[]), ValueError, "finite numbers, at least one"),
        (lambda: STCH(preference=[1.0, float("nan")]), ValueError, "finite numbers, at least one"),
        (lambda: STCH(preference=[1.0, -1.0]), ValueError, "finite numbers >= 0, not all zero"),
        (lambda: PBI(preference={"a": 0.0}), ValueError, "finite numbers >= 0, not all zero"),
        (lambda: PBI(reference=[float("inf")]), ValueError, "`reference` of `PBI`"),
        (lambda: PBI(theta=-1.0), ValueError, "`theta` of `PBI`"),
        (lambda: AugmentedTchebycheff(rho=-0.1), ValueError, "`rho`"),
        (lambda: COSMOS(penalty=float("nan")), ValueError, "`penalty`"),
        (lambda: UW(lr=-1.0), ValueError, "`lr` of `UW`"),
        (lambda: IMTLL(lr=float("inf")), ValueError, "`lr` of `IMTLL`"),
        (lambda: DWA(steps_per_epoch=0), ValueError, "`steps_per_epoch`"),
        (lambda: DWA(steps_per_epoch=2.5), ValueError, "`steps_per_epoch`"),
        (lambda: DWA(temperature=0.0), ValueError, "`temperature`"),
        (lambda: FAMO(lr=-0.1), ValueError, "`lr` of `FAMO`"),
        (lambda: FAMO(weight_decay=-0.1), ValueError, "`weight_decay` of `FAMO`"),
        (lambda: FAMO(min_losses="ab"), TypeError, "`min_losses` of `FAMO`"),
        (lambda: RLW(seed=0.5), TypeError, "`seed` of `RLW`"),
    ],
)
def test_errors_name_the_rule_and_the_remedy(build, error, match) -> None:
    with pytest.raises(error, match=match):
        build()
