"""The fused log-probabilities of labels against float64 logits, and a loss that runs on them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moopt.kernels.dispatch import Form
from moopt.kernels.token_logprob import blocks
from moopt.kernels.token_logprob.triton import SHAPES, label_sums_triton
from moopt.losses import LinearLogits, token_log_probs
from tests.kernels.fused.device import DEVICE

EPS = {dtype: torch.finfo(dtype).eps for dtype in SHAPES}


def drawn(
    count: int, vocabulary: int, width: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=generator) * scale
    weight = torch.randn(vocabulary, width, generator=generator) / max(width, 1) ** 0.5
    bias = torch.randn(vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    return (*(x.to(DEVICE, dtype) for x in (hidden, weight, bias)), targets.to(DEVICE))  # type: ignore[return-value]


def label_values(own: Tensor, shift: Tensor, total: Tensor) -> Tensor:
    """The log-probabilities, of which the lowest is a number."""
    return (own - shift - total.log()).clamp_min(torch.finfo(torch.float32).min)


def worst(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> float:
    """The largest error of a log-probability, in those that the dtype's logits may have."""
    logits = hidden.double() @ weight.double().T
    size = hidden.double().abs() @ weight.double().abs().T
    if bias is not None:
        logits, size = logits + bias.double(), size + bias.double().abs()
    expected = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    found = label_values(*label_sums_triton(hidden, weight, bias, targets))
    if not len(found):
        return 0.0
    # A rounding of the logit and one in the sum; the interpreter cuts bfloat16 off.
    allowed = 4 * EPS[hidden.dtype] * (size.amax(1) + 1) + 1e-5
    return float(((found.double() - expected).abs() / allowed).max())


@pytest.mark.parametrize("dtype", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 63, 1000, 1025])
def test_every_number_of_tokens(count: int, dtype: torch.dtype) -> None:
    hidden, weight, bias, targets = drawn(count, 77, 24, dtype)
    assert worst(hidden, weight, bias, targets) <= 1.0
    assert worst(hidden, weight, None, targets) <= 1.0


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 40),
    vocabulary=st.integers(1, 300),
    width=st.integers(1, 70),
    dtype=st.sampled_from(list(SHAPES)),
    scale=st.sampled_from([1e-4, 1.0, 30.0, 1e3]),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_scale(
    count: int, vocabulary: int, width: int, dtype: torch.dtype, scale: float, seed: int
) -> None:
    hidden, weight, bias, targets = drawn(count, vocabulary, width, dtype, scale, seed)
    assert worst(hidden, weight, bias, targets) <= 1.0


def test_the_check_sees_a_column_too_few() -> None:
    hidden, weight, bias, targets = drawn(9, 33, 8, torch.float32)
    bias[-1] = 20.0
    targets[:] = 0
    logits = hidden @ weight.T + bias
    wrong = logits[:, :-1].logsumexp(1) - logits.logsumexp(1)
    assert float(wrong.abs().min()) > 1.0
    assert worst(hidden, weight, bias, targets) <= 1.0


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
def test_infinities() -> None:
    hidden, weight, bias, targets = drawn(6, 70, 8, torch.float32)
    bias[:40] = -math.inf
    targets[:] = 50
    targets[0] = 3
    values = label_values(*label_sums_triton(hidden, weight, bias, targets))
    expected = (hidden @ weight.T + bias).log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    lowest = torch.finfo(torch.float32).min
    torch.testing.assert_close(values, expected.clamp_min(lowest), rtol=1e-5, atol=1e-5)
    assert float(values[0]) == lowest
    bias[:] = -math.inf  # no distribution at all
    assert label_values(*label_sums_triton(hidden, weight, bias, targets)).isnan().all()
    hidden[2] = math.inf
    hidden[3] = math.nan
    values = label_values(*label_sums_triton(hidden, weight, None, targets))
    assert values.isnan().tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize("dtype", SHAPES)
def test_rows_that_do_not_lie_together(dtype: torch.dtype) -> None:
    hidden, weight, bias, targets = drawn(40, 50, 16, dtype)
    expected = label_sums_triton(hidden, weight, bias, targets)
    apart = torch.full((40, 33), math.nan, device=DEVICE, dtype=dtype)
    apart[:, 5:21] = hidden
    across = weight.T.contiguous().T
    found = label_sums_triton(apart[:, 5:21], across, bias, targets)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_matrix_in_float32_is_cast_as_under_autocast() -> None:
    hidden, weight, bias, targets = drawn(40, 50, 16, torch.float16)
    wide = label_sums_triton(hidden, weight.float(), bias.float(), targets)
    for one, other in zip(wide, label_sums_triton(hidden, weight, bias, targets), strict=True):
        assert torch.equal(one, other)


def test_a_loss_runs_on_it_where_the_form_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 16, generator=generator).to(DEVICE).requires_grad_()
    weight = torch.randn(45, 16, generator=generator).to(DEVICE).requires_grad_()
    labels = torch.randint(45, (2, 9), generator=generator)
    labels[0, :4] = -100
    labels = labels.to(DEVICE)
    calls = []

    def counted(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(1)
        return label_sums_triton(*given)

    monkeypatch.setattr("moopt.kernels.token_logprob.triton.label_sums_triton", counted)
    results = []
    for name in ("reference", "triton"):
        monkeypatch.setattr(blocks, "fused_form", lambda *_, name=name, **__: Form(name, ""))
        values, mask = token_log_probs(LinearLogits(hidden, weight), labels)
        results.append((values, *torch.autograd.grad(values.square().sum(), (hidden, weight))))
        assert (values[~mask] == 0.0).all()
    assert calls == [1]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    labels[1, 3] = 45
    with pytest.raises((ValueError, RuntimeError)):
        token_log_probs(LinearLogits(hidden, weight), labels)
