"""The combination with the update against torch's fused optimizers, which we did not write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.kernels import updates
from moopt.kernels.combine_update import ADAM, SGD, combine_update_, reference
from tests.kernels.gradient_rows import SHAPES

Case = tuple[list[Tensor], list[list[Tensor]], list[list[Tensor | None]], list[float], Tensor]
Update = Callable[..., None]
LAYOUTS = ("contiguous", "transposed", "sliced")


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.mT.contiguous().mT
    if layout == "sliced" and tensor.dim() > 0:
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), math.nan, dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor


@st.composite
def cases(draw: st.DrawFn, dtypes: Sequence[torch.dtype] = (torch.float64,)) -> Case:
    """Parameters, states, rows, weights and numbers of any kind that the update may meet."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    m, held = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    dtype = draw(st.sampled_from(dtypes))
    parameters: list[Tensor] = []
    states: list[list[Tensor]] = [[] for _ in range(held)]
    rows: list[list[Tensor | None]] = [[] for _ in range(m)]
    numbers = []
    flag, rate = st.sampled_from((0.0, 1.0)), st.sampled_from((0.0, 1e-3, 0.5, 0.9))
    for _ in range(draw(st.integers(1, 5))):
        shape, layout = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(LAYOUTS))

        def drawn(shape: tuple[int, ...] = shape, layout: str = layout) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            return laid_out(values.to(dtype), layout)

        parameters.append(drawn())
        for k, state in enumerate(states):
            state.append(drawn() if k == 0 else drawn().square_().add_(0.01))
        for row in rows:
            row.append(
                None
                if draw(st.integers(0, 3)) == 0
                else drawn(layout=draw(st.sampled_from(LAYOUTS)))
            )
        lr, decay = draw(st.floats(0.0, 0.1)), draw(rate)
        if held < 2:
            # Without momentum torch has no buffer.
            momentum = draw(st.sampled_from((1e-3, 0.5, 0.9))) if held else 0.0
            own = {"lr": lr, "momentum": momentum, "dampening": draw(rate)}
            own |= {"weight_decay": decay, "nesterov": draw(flag), "maximize": draw(flag)}
            numbers.append([own[name] for name in SGD])
        else:
            own = {"lr": lr, "beta1": draw(rate), "beta2": 1.0 - draw(st.sampled_from((0.1, 1e-3)))}
            own |= {"eps": draw(st.sampled_from((1e-8, 1e-3))), "maximize": draw(flag)}
            own |= dict.fromkeys(("coupled_decay", "decoupled_decay"), 0.0)
            own[draw(st.sampled_from(("coupled_decay", "decoupled_decay")))] = decay
            own["step"] = float(draw(st.integers(1, 100)))
            numbers.append([own[name] for name in ADAM])
    weights = draw(st.lists(st.floats(-2.0, 2.0), min_size=m, max_size=m))
    return parameters, states, rows, weights, torch.tensor(numbers, dtype=torch.float64)


def by_torch(case: Case) -> tuple[list[Tensor], list[list[Tensor]]]:
    """What torch's fused kernels make of copies, parameter by parameter, along the same sum."""
    parameters, states, rows, weights, numbers = case
    copies = [p.clone() for p in parameters]
    kept = [[s.clone() for s in state] for state in states]
    for t, own in enumerate(numbers.tolist()):
        terms = [w * row[t] for w, row in zip(weights, rows, strict=True) if row[t] is not None]
        if not terms:
            continue
        d = torch.zeros_like(copies[t]).add_(torch.stack(terms).sum(0))
        given = dict(zip(updates.numbers_of(len(states)), own, strict=True))
        mine = [[state[t]] for state in kept]
        if len(states) < 2:
            torch._fused_sgd_(
                [copies[t]],
                [d],
                *(mine or [[]]),
                weight_decay=given["weight_decay"],
                momentum=given["momentum"] if mine else 0.0,
                lr=given["lr"],
                dampening=given["dampening"],
                nesterov=bool(given["nesterov"]) and bool(mine),
                maximize=bool(given["maximize"]),
                is_first_step=False,
            )
            continue
        fused = torch._fused_adamw_ if given["decoupled_decay"] else torch._fused_adam_
        fused(
            [copies[t]],
            [d],
            mine[0],
            mine[1],
            mine[2] if len(mine) == 3 else [],
            [torch.tensor(given["step"])],
            lr=given["lr"],
            beta1=given["beta1"],
            beta2=given["beta2"],
            weight_decay=given["coupled_decay"] + given["decoupled_decay"],
            eps=given["eps"],
            amsgrad=len(mine) == 3,
            maximize=bool(given["maximize"]),
        )
    return copies, kept


def worst(case: Case, update: Update = combine_update_) -> float:
    """How far `update` is from torch, in terms of the size of a step and of its start."""
    parameters, states, _, _, _ = case
    expected, kept = by_torch(case)
    before = [p.clone() for p in parameters]
    update(*case)
    found = [*parameters, *(s for state in states for s in state)]
    wanted = [*expected, *(s for state in kept for s in state)]
    scale = 1.0 + max((float(b.abs().max()) for b in before if b.numel()), default=0.0)
    errors = [(f - w).abs().max() for f, w in zip(found, wanted, strict=True) if f.numel()]
    return max(map(float, errors), default=0.0) / scale


@pytest.fixture(params=["as shipped", "short chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test also runs with chunks so short that small tensors cross their borders."""
    if request.param == "short chunks":
        monkeypatch.setattr(reference, "_HOST_CHUNK", 100)


@pytest.mark.usefixtures("chunks")
def test_it_is_torchs_step() -> None:
    @settings(deadline=None, max_examples=150)
    @given(case=cases())
    def check(case: Case) -> None:
        rows = [[None if g is None else g.clone() for g in row] for row in case[2]]
        assert worst(case) <= 1e-12
        for row, before in zip(case[2], rows, strict=True):  # only read
            for g, b in zip(row, before, strict=True):
                assert g is None or torch.equal(g, b)  # type: ignore[arg-type]

    check()


def test_float32_and_16_bits_are_a_rounding_of_float64() -> None:
    @settings(deadline=None, max_examples=100)
    @given(case=cases(dtypes=(torch.float32, torch.bfloat16, torch.float16)))
    def check(case: Case) -> None:
        parameters, states, rows, weights, numbers = case
        eps = torch.finfo(parameters[0].dtype).eps
        wide: Case = (
            [p.double() for p in parameters],
            [[s.double() for s in state] for state in states],
            [[None if g is None else g.double() for g in row] for row in rows],
            weights,
            numbers,
        )
        combine_update_(*case)
        combine_update_(*wide)
        narrow = [*parameters, *(s for state in states for s in state)]
        exact = [*wide[0], *(s for state in wide[1] for s in state)]
        for found, wanted in zip(narrow, exact, strict=True):
            allowed = eps * (wanted.abs() + 1.0) + 2e-5 * (wanted.abs() + 1.0)
            assert ((found.double() - wanted).abs() <= allowed).all()

    check()


PLANTED = {
    "a state that stays": lambda p, s, r, w, n: combine_update_(
        p, [[x.clone() for x in state] for state in s], r, w, n
    ),
    "a row that is left out": lambda p, s, r, w, n: combine_update_(p, s, r[1:], w[1:], n),
    "the numbers of the first parameter": lambda p, s, r, w, n: combine_update_(
        p, s, r, w, n[:1].expand_as(n).contiguous()
    ),
    "one step too many": lambda p, s, r, w, n: (
        combine_update_(p, s, r, w, n),
        combine_update_(p, s, r, w, n),
    ),
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_seen(error: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn() -> list[Tensor]:
        return [torch.randn(n, generator=generator, dtype=torch.float64) for n in (5, 7)]

    numbers = torch.tensor(
        [[0.1, 0.9, 0.99, 1e-8, 0.0, 0.1, 3.0, 0.0], [0.2, 0.8, 0.9, 1e-8, 0.1, 0.0, 4.0, 1.0]],
        dtype=torch.float64,
    )
    case: Case = (
        drawn(),
        [drawn(), [x.square() for x in drawn()]],
        [[*drawn()] for _ in range(3)],
        [0.5, 0.3, 0.2],
        numbers,
    )
    assert worst(case, PLANTED[error]) > 1e-4


@pytest.mark.parametrize("weight", [1e-45, 1e42])
def test_weights_beyond_float32(weight: float) -> None:
    parameter, row = torch.zeros(3), torch.full((3,), 1e38 if weight < 1 else 1e-38)
    numbers = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    combine_update_([parameter], [], [[row]], [weight], numbers)
    assert torch.allclose(parameter.double(), -weight * row.double(), rtol=1e-6)


def test_what_is_not_finite_stays_visible() -> None:
    parameter, bad = torch.zeros(2), torch.tensor([math.inf, 1.0])
    numbers = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    combine_update_([parameter], [], [[bad], [torch.ones(2)]], [0.0, 1.0], numbers)
    assert math.isnan(parameter[0])
    assert parameter[1] == -1.0


def test_bad_input_gets_one_clear_error() -> None:
    parameter, row = [torch.zeros(2)], [[torch.ones(2)]]
    numbers = torch.zeros(1, len(SGD), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"`weights`.*\[m\] = \[1\].*got \[2\]"):
        combine_update_(parameter, [], row, [1.0, 2.0], numbers)
    with pytest.raises(ValueError, match=r"`numbers`.*\[1, 6\].*lr, momentum.*got \[1, 8\]"):
        combine_update_(parameter, [], row, [1.0], torch.zeros(1, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="agree in shape"):
        combine_update_(parameter, [], [[torch.ones(3)]], [1.0], numbers)
