"""Every loss beside its oracle, and the samples and checks that all of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import moopt.losses as losses
from tests.losses import oracles

# A call is (logits, labels, reference_logits) -> loss; losses without a reference ignore the third.
Call = Callable[[Tensor, Tensor, Tensor], Tensor]

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

# Rounding errors allowed, in units of eps of the internals' dtype: a log-softmax and the sums over
# a handful of tokens and a vocabulary of ten lose a few; the rest is room.
ULPS = 64


@dataclasses.dataclass(frozen=True)
class LossCase:
    """One loss under its default hyper-parameters or others, with its oracle.

    `slope` bounds how fast the gradient in a log-probability changes with it (the loss's second
    derivative): rounding in the log-probabilities reaches gradients times this.
    """

    name: str
    call: Call
    oracle: Call
    module: nn.Module
    per_sequence: bool = False
    has_reference: bool = False
    slope: float = 1.0

    def __repr__(self) -> str:
        return self.name


def with_reference(function: Callable[..., Tensor], **options: object) -> Call:
    return lambda z, y, r: function(z, y, reference_logits=r, **options)


def without_reference(function: Callable[..., Tensor], **options: object) -> Call:
    return lambda z, y, r: function(z, y, **options)


CASES = [
    LossCase(
        "cross_entropy",
        without_reference(losses.token_cross_entropy_loss),
        oracles.cross_entropy,
        losses.TokenCrossEntropyLoss(),
    ),
    LossCase(
        "gradient_ascent",
        without_reference(losses.gradient_ascent_loss),
        oracles.gradient_ascent,
        losses.GradientAscentLoss(),
    ),
    LossCase(
        "uce",
        without_reference(losses.unlearning_cross_entropy_loss),
        oracles.unlearning_cross_entropy,
        losses.UnlearningCrossEntropyLoss(),
    ),
    LossCase(
        "npo",
        with_reference(losses.npo_loss),
        oracles.npo,
        losses.NPOLoss(),
        per_sequence=True,
        has_reference=True,
    ),
    LossCase(
        "npo_beta_3",
        with_reference(losses.npo_loss, beta=3.0),
        lambda z, y, r: oracles.npo(z, y, r, beta=3.0),
        losses.NPOLoss(beta=3.0),
        per_sequence=True,
        has_reference=True,
        slope=3.0,
    ),
    LossCase(
        "simnpo",
        without_reference(losses.simnpo_loss),
        oracles.simnpo,
        losses.SimNPOLoss(),
        per_sequence=True,
        slope=4.5,
    ),
    LossCase(
        "simnpo_margin",
        without_reference(losses.simnpo_loss, beta=2.5, gamma=1.5),
        lambda z, y, r: oracles.simnpo(z, y, r, beta=2.5, gamma=1.5),
        losses.SimNPOLoss(beta=2.5, gamma=1.5),
        per_sequence=True,
        slope=2.5,
    ),
    LossCase(
        "kl_forward",
        with_reference(losses.reference_kl_loss),
        oracles.kl,
        losses.ReferenceKLLoss(),
        has_reference=True,
    ),
    LossCase(
        "kl_reverse",
        with_reference(losses.reference_kl_loss, direction="reverse"),
        lambda z, y, r: oracles.kl(z, y, r, reverse=True),
        losses.ReferenceKLLoss(direction="reverse"),
        has_reference=True,
    ),
]
BY_NAME = {case.name: case for case in CASES}


@dataclasses.dataclass(frozen=True)
class Sample:
    """A batch, determined by its fields (so that hypothesis prints something to reproduce)."""

    shape: tuple[int, int, int] = (2, 4, 5)
    dtype: torch.dtype = torch.float32
    scale: float = 3.0
    supervised: float = 0.7
    seed: int = 0

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, labels and reference logits."""
        generator = torch.Generator().manual_seed(self.seed)
        batch, length, vocabulary = self.shape
        logits, reference = (
            (torch.randn(self.shape, generator=generator, dtype=torch.float64) * self.scale)
            .clamp(torch.finfo(self.dtype).min, torch.finfo(self.dtype).max)
            .to(self.dtype)
            for _ in range(2)
        )
        labels = torch.randint(0, vocabulary, (batch, length), generator=generator)
        ignored = torch.rand((batch, length), generator=generator) > self.supervised
        return logits, labels.masked_fill(ignored, oracles.IGNORED), reference


SAMPLES = st.builds(
    Sample,
    shape=st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1e-3, 1.0, 10.0, 100.0, 2e4]),
    supervised=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 2**31),
)

# A few fixed samples, on which the planted violators are caught.
FIXED_SAMPLES = [
    Sample(seed=seed, dtype=dtype, scale=scale)
    for dtype in DTYPES
    for scale in (1.0, 10.0)
    for seed in range(3)
]


def value_and_gradient(call: Call, logits: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = call(leaf, *rest)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def check_agreement(case: LossCase, sample: Sample) -> None:
    """The loss and its gradient equal the float64 oracle's, up to rounding of the internals."""
    logits, labels, reference = sample.tensors()
    value, gradient = value_and_gradient(case.call, logits, labels, reference)
    expected, slope = value_and_gradient(case.oracle, logits.double(), labels, reference.double())

    internal = torch.float64 if sample.dtype == torch.float64 else torch.float32
    assert value.dtype == internal
    assert value.shape == ()
    assert gradient.dtype == sample.dtype
    # Log-probabilities are differences of logits: they err by eps times the spread of the logits.
    spread = 1 + max(float((t.amax(-1) - t.amin(-1)).max()) for t in (logits, reference))
    error = ULPS * torch.finfo(internal).eps * spread * sample.shape[1]
    assert abs(value.item() - expected.item()) <= error + ULPS * torch.finfo(internal).eps * abs(
        expected.item()
    )
    rounded = torch.finfo(sample.dtype).eps * slope.abs() + torch.finfo(sample.dtype).tiny
    assert ((gradient.double() - slope).abs() <= error * case.slope + rounded).all()


def check_padding(case: LossCase, sample: Sample) -> None:
    """What stands at unsupervised positions reaches neither the value nor the gradient."""
    logits, labels, reference = sample.tensors()
    unsupervised = torch.ones(labels.shape, dtype=torch.bool)
    unsupervised[:, :-1] = labels[:, 1:] == oracles.IGNORED
    plain = value_and_gradient(case.call, logits, labels, reference)
    for poison in (float("nan"), float("inf"), 1.0):
        at = unsupervised[..., None]
        others = labels.clone()
        others[:, 0] = oracles.IGNORED  # nothing predicts the first label
        value, gradient = value_and_gradient(
            case.call, logits.masked_fill(at, poison), others, reference.masked_fill(at, poison)
        )
        assert torch.equal(value, plain[0])
        assert torch.equal(gradient, plain[1])
        assert (gradient[unsupervised] == 0).all()


def check_split(case: LossCase, sample: Sample) -> None:
    """A batch's mean is the mean of its sequences' sums: no sequence weighs on another."""
    logits, labels, reference = sample.tensors()
    mask = labels[:, 1:] != oracles.IGNORED
    counts = mask.any(1).long() if case.per_sequence else mask.sum(1)
    parts = [
        case.call(logits[b : b + 1], labels[b : b + 1], reference[b : b + 1]).double() * counts[b]
        for b in range(len(labels))
    ]
    whole = case.call(logits, labels, reference).double() * counts.sum()
    scale = sum(abs(part) for part in parts)
    rounding = torch.finfo(case.call(logits, labels, reference).dtype)
    # Below `tiny` numbers keep no relative precision.
    assert abs(whole - sum(parts)) <= ULPS * (rounding.eps * scale + rounding.tiny)
