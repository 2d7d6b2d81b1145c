"""What every loss promises: the formula, the ignored positions, finite numbers, no host read."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import moopt.losses as losses
from tests.losses.cases import (
    BY_NAME,
    CASES,
    DTYPES,
    FIXED_SAMPLES,
    SAMPLES,
    Call,
    LossCase,
    Sample,
    check_agreement,
    check_padding,
    check_split,
    value_and_gradient,
)
from tests.losses.oracles import IGNORED

every_loss = pytest.mark.parametrize("case", CASES, ids=repr)
with_reference = pytest.mark.parametrize(
    "case", [case for case in CASES if case.has_reference], ids=repr
)


@every_loss
@given(sample=SAMPLES)
@settings(deadline=None, max_examples=40)
def test_agrees_with_the_formula_in_float64(case: LossCase, sample: Sample) -> None:
    check_agreement(case, sample)


@every_loss
@given(sample=SAMPLES)
@settings(deadline=None, max_examples=25)
def test_ignored_positions_change_nothing(case: LossCase, sample: Sample) -> None:
    check_padding(case, sample)


@every_loss
@given(sample=SAMPLES)
@settings(deadline=None, max_examples=25)
def test_a_batch_is_the_sum_of_its_sequences(case: LossCase, sample: Sample) -> None:
    check_split(case, sample)


def planted(name: str, call: Call) -> LossCase:
    return dataclasses.replace(BY_NAME[name], call=call)


def kl_over_padding(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    log_p, log_r = logits.float().log_softmax(-1), reference.float().log_softmax(-1)
    return F.kl_div(log_p, log_r, log_target=True, reduction="none").sum(-1).mean()


def uce_in_low_precision(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    mask = labels[:, 1:] != IGNORED
    log_probs = logits[:, :-1].log_softmax(-1)
    p = log_probs.gather(-1, labels[:, 1:].clamp_min(0)[..., None]).squeeze(-1).exp()
    values = -(1 - p / 2).log()
    return (values.where(mask, 0.0).sum() / mask.sum().clamp_min(1)).float()


def npo_without_shift(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    ahead = torch.cat([labels[:, :1], labels], dim=1)  # undoes the shift
    pad = torch.zeros_like(logits[:, :1])
    return losses.npo_loss(
        torch.cat([logits, pad], dim=1), ahead, reference_logits=torch.cat([reference, pad], dim=1)
    )


def simnpo_margin_times_beta(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    return losses.simnpo_loss(logits, labels, beta=2.5, gamma=2.5 * 1.5)


def simnpo_margin_flipped(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    return losses.simnpo_loss(logits, labels, beta=2.5, gamma=-1.5)


def mean_over_rows(logits: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    return losses.token_cross_entropy_loss(logits, labels, reduction="none").mean()


VIOLATORS = {
    "KL over padding": (planted("kl_forward", kl_over_padding), (check_agreement, check_padding)),
    "UCE in low precision": (planted("uce", uce_in_low_precision), (check_agreement,)),
    "NPO without shift": (planted("npo", npo_without_shift), (check_agreement, check_padding)),
    "SimNPO, margin times beta": (
        planted("simnpo_margin", simnpo_margin_times_beta),
        (check_agreement,),
    ),
    "SimNPO, margin flipped": (planted("simnpo_margin", simnpo_margin_flipped), (check_agreement,)),
    "mean over all tokens": (
        planted("cross_entropy", mean_over_rows),
        (check_agreement, check_split),
    ),
}


@pytest.mark.parametrize("name", VIOLATORS)
def test_planted_violators_are_caught(name: str) -> None:
    case, checks = VIOLATORS[name]
    for check in checks:
        caught = 0
        for sample in FIXED_SAMPLES:
            try:
                check(case, sample)
            except AssertionError:
                caught += 1
        assert caught > 0, f"{check.__name__} let {name} pass"
        for sample in FIXED_SAMPLES:
            check(BY_NAME[case.name], sample)


PROBABILITIES = [0.0, 1e-30, 1e-7, 0.5, 1 - 1e-7, 1.0]


def logits_with_probability(p: float, dtype: torch.dtype) -> Tensor:
    """Logits whose label token (2) has probability p: 0 and 1 by a gap near the dtype's range."""
    logits = torch.zeros(2, 3, 7, dtype=torch.float64)
    if p in (0.0, 1.0):
        logits[..., 2] = (2 * p - 1) * torch.finfo(dtype).max / 8
    else:
        odds = torch.tensor(p, dtype=torch.float64)
        logits[..., 2] = odds.log() - (-odds).log1p() + torch.tensor(6.0).log()
    return logits.to(dtype)


@every_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finite_from_probability_zero_to_one(case: LossCase, dtype: torch.dtype) -> None:
    labels = torch.tensor([[0, 2, 2], [IGNORED, 2, IGNORED]])
    references = PROBABILITIES if case.has_reference else [0.5]
    for p, reference_p in itertools.product(PROBABILITIES, references):
        logits = logits_with_probability(p, dtype)
        reference = logits_with_probability(reference_p, dtype)
        value, gradient = value_and_gradient(case.call, logits, labels, reference)
        assert value.isfinite()
        assert gradient.isfinite().all()
        if dtype == torch.float64:
            continue  # the oracle is no better
        expected, slope = value_and_gradient(
            case.oracle, logits.double(), labels, reference.double()
        )
        eps = 64 * torch.finfo(torch.float32).eps
        assert abs(value - expected) <= eps * (20 + abs(expected))  # 20 = 2/beta of NPO
        # Reverse KL's gradient holds differences of log-ratios: it errs by eps times their size.
        unit = 1 + float((logits.double() - reference.double()).abs().max())
        unit = unit if case.name == "kl_reverse" else 1.0
        allowed = torch.finfo(dtype).eps * slope.abs() + torch.finfo(dtype).tiny
        assert ((gradient - slope).abs() <= eps * unit + allowed).all()


@every_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_finite_at_the_ends_of_the_dtype(case: LossCase, dtype: torch.dtype, seed: int) -> None:
    largest = torch.finfo(dtype).max
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64) * largest
    logits, reference = (
        corners[torch.randint(0, 5, (2, 2, 5), generator=generator)].to(dtype) for _ in range(2)
    )
    labels = torch.randint(0, 5, (2, 2), generator=generator)
    value, gradient = value_and_gradient(case.call, logits, labels, reference)
    assert gradient.isfinite().all()
    # NPO is twice a difference of log-probabilities, which float32 may not hold.
    assert value.isfinite() or case.name.startswith("npo")


@every_loss
@pytest.mark.parametrize("length", [1, 3])
def test_a_batch_without_supervised_tokens_is_zero(case: LossCase, length: int) -> None:
    logits = torch.randn(2, length, 5)
    labels = torch.full((2, length), IGNORED)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        value, gradient = value_and_gradient(case.call, logits, labels, logits)
    assert value == 0
    assert (gradient == 0).all()


@every_loss
@given(sample=SAMPLES)
@settings(deadline=None, max_examples=10)
def test_module_is_the_function(case: LossCase, sample: Sample) -> None:
    logits, labels, reference = sample.tensors()
    reference_argument = {"reference_logits": reference} if case.has_reference else {}
    for module in (
        case.module,
        copy.deepcopy(case.module),
        pickle.loads(pickle.dumps(case.module)),
    ):
        assert torch.equal(
            module(logits, labels, **reference_argument), case.call(logits, labels, reference)
        )


@every_loss
def test_module_options(case: LossCase) -> None:
    logits, labels, reference = Sample(shape=(3, 5, 4), supervised=0.5).tensors()
    labels[1] = IGNORED
    reference_argument = {"reference_logits": reference} if case.has_reference else {}
    for reduction in ("mean", "sum", "none"):
        module = copy.deepcopy(case.module)
        module.reduction, module.ignore_index = reduction, -1
        assert f"reduction={reduction!r}" in repr(module)
        value = module(logits, labels.masked_fill(labels == IGNORED, -1), **reference_argument)
        mask = labels[:, 1:] != IGNORED
        if case.per_sequence:
            mask = mask.any(1)
        if reduction == "none":
            assert value.shape == mask.shape
            assert (value[~mask] == 0).all()
            values = value
        else:
            expected = values_of(case, logits, labels, reference_argument).sum()
            expected = expected / mask.sum() if reduction == "mean" else expected
            torch.testing.assert_close(value, expected)
    torch.testing.assert_close(values, values_of(case, logits, labels, reference_argument))


def values_of(
    case: LossCase, logits: Tensor, labels: Tensor, reference: dict[str, Tensor]
) -> Tensor:
    module = copy.deepcopy(case.module)
    module.reduction = "none"
    return module(logits, labels, **reference)


@every_loss
def test_derivatives_in_float64(case: LossCase) -> None:
    logits, labels, reference = Sample(dtype=torch.float64, scale=1.0, shape=(2, 3, 4)).tensors()
    leaf = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: case.call(z, labels, reference), leaf)
    assert torch.autograd.gradgradcheck(lambda z: case.call(z, labels, reference), leaf)


# Dynamo instantiates every autograd.Function that it traces, and torch warns of that.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_loss
def test_compiles_without_a_break(case: LossCase) -> None:
    torch._dynamo.reset()
    logits, labels, reference = Sample(dtype=torch.bfloat16).tensors()
    compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager")
    got = value_and_gradient(compiled, logits, labels, reference)
    for actual, expected in zip(
        got, value_and_gradient(case.call, logits, labels, reference), strict=True
    ):
        torch.testing.assert_close(actual, expected)


@every_loss
def test_never_reads_a_value_on_the_host(case: LossCase) -> None:
    # A fake tensor has no values: `.item()`, `nonzero`, boolean indexing and `if tensor` raise.
    with FakeTensorMode():
        logits = torch.randn(2, 4, 5).requires_grad_()
        labels = torch.zeros(2, 4, dtype=torch.int64)
        case.call(logits, labels, torch.randn(2, 4, 5)).backward()
        assert logits.grad is not None
        with pytest.raises(RuntimeError):  # the check can fail
            logits[labels > 0].sum().item()


@every_loss
def test_per_sequence_gradients_under_vmap(case: LossCase) -> None:
    logits, labels, reference = Sample(shape=(3, 4, 5)).tensors()

    def one(z: Tensor, y: Tensor, r: Tensor) -> Tensor:
        return case.call(z[None], y[None], r[None])

    got = torch.func.vmap(torch.func.grad(one))(logits, labels, reference)
    expected = [
        value_and_gradient(case.call, logits[b : b + 1], labels[b : b + 1], reference[b : b + 1])[1]
        for b in range(3)
    ]
    torch.testing.assert_close(got, torch.cat(expected))


@every_loss
def test_strided_logits_and_autocast(case: LossCase) -> None:
    logits, labels, reference = Sample(dtype=torch.bfloat16).tensors()
    expected = value_and_gradient(case.call, logits, labels, reference)
    strided = logits.transpose(0, 1).contiguous().transpose(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = value_and_gradient(case.call, strided, labels, reference)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@with_reference
def test_the_reference_is_a_constant(case: LossCase) -> None:
    logits, labels, reference = Sample().tensors()
    reference.requires_grad_()
    assert not case.call(logits, labels, reference).requires_grad
    case.call(logits.requires_grad_(), labels, reference).backward()
    assert reference.grad is None
    assert logits.grad is not None


@with_reference
def test_exactly_one_reference(case: LossCase) -> None:
    logits, labels, reference = Sample().tensors()
    with pytest.raises(ValueError, match=r"exactly one of `reference_logits`.*got none"):
        case.module(logits, labels)
    with pytest.raises(ValueError, match=r"exactly one of `reference_logits`.*got both"):
        case.module(logits, labels, reference_logits=reference, reference_log_probs=reference)


@with_reference
def test_reference_of_another_shape_or_type(case: LossCase) -> None:
    logits, labels, reference = Sample().tensors()
    with pytest.raises(ValueError, match=r"must have the shape of `logits`, \[2, 4, 5\]"):
        case.call(logits, labels, reference[..., :-1])
    with pytest.raises(TypeError, match=r"`reference_logits` of .* must be floating point"):
        case.call(logits, labels, reference.long())


@every_loss
def test_wrong_shapes_and_types(case: LossCase) -> None:
    logits, labels, reference = Sample().tensors()
    with pytest.raises(ValueError, match=r"must have shape \[B, T, V\].*got \[4, 5\]"):
        case.call(logits[0], labels[0], reference[0])
    with pytest.raises(ValueError, match=r"`labels` of .* must have shape \[2, 4\].*got \[2, 3\]"):
        case.call(logits, labels[:, 1:], reference)
    with pytest.raises(TypeError, match=r"`labels` of .* must be int64; got torch.int32"):
        case.call(logits, labels.int(), reference)
    with pytest.raises(TypeError, match=r"`logits` of .* must be floating point"):
        case.call(logits.long(), labels, reference)
    output = types.SimpleNamespace(logits=logits)
    with pytest.raises(TypeError, match=r"`logits` of .* must be a tensor; got SimpleNamespace"):
        case.call(output, labels, reference)


@every_loss
def test_unknown_reduction(case: LossCase) -> None:
    module = type(case.module)
    with pytest.raises(ValueError, match="must be 'mean', 'sum' or 'none'; got 'average'"):
        module(reduction="average")
    broken = copy.deepcopy(case.module)
    broken.reduction = "average"
    logits, labels, reference = Sample().tensors()
    with pytest.raises(ValueError, match="must be 'mean', 'sum' or 'none'"):
        broken(logits, labels, **({"reference_logits": reference} if case.has_reference else {}))


@pytest.mark.parametrize("module", [losses.NPOLoss, losses.SimNPOLoss])
@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_must_be_positive(module: type, beta: float) -> None:
    with pytest.raises(ValueError, match=f"`beta` of `{module.__name__}` must be positive"):
        module(beta=beta)
