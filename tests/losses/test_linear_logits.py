"""Losses of hidden states and an output matrix: those of the logits, in value and gradient."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from moopt.kernels.token_logprob import blocks, linear
from moopt.losses import (
    LinearLogits,
    reference_kl_loss,
    token_cross_entropy_loss,
    token_log_probs,
)
from tests.losses.cases import CASES, LossCase

RTOL = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}
"""Relative to the largest entry; in bfloat16 the logits' gradient is rounded in both ways."""


@pytest.fixture(params=["one chunk", "small chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How much more rounding there is than in one piece."""
    if request.param == "small chunks":
        monkeypatch.setattr(linear, "CHUNK_ELEMENTS", 2 * VOCABULARY + 1)
        monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)
        monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 12)
        return 4.0  # sums of three terms each; NPO takes them times beta and the length
    return 1.0


BATCH, LENGTH, WIDTH, VOCABULARY = 3, 5, 6, 11


def sample(dtype: torch.dtype, *, bias: bool) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Leaves (hidden, weight, and perhaps bias), the reference's, and labels, some ignored."""
    generator = torch.Generator().manual_seed(0)

    def leaves() -> list[Tensor]:
        shapes = [(BATCH, LENGTH, WIDTH), (VOCABULARY, WIDTH), *([(VOCABULARY,)] if bias else [])]
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        return [x.to(dtype).requires_grad_() for x in drawn]

    labels = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    labels[0, :3] = -100
    labels[2] = -100
    return leaves(), leaves(), labels


def in_memory(leaves: list[Tensor]) -> Tensor:
    return torch.nn.functional.linear(*leaves)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_value_and_gradients_are_those_of_the_logits(
    case: LossCase, dtype: torch.dtype, bias: bool, chunks: float
) -> None:
    tol = RTOL[dtype] * chunks
    leaves, reference, labels = sample(dtype, bias=bias)
    expected = case.call(in_memory(leaves), labels, in_memory(reference))
    found = case.call(LinearLogits(*leaves), labels, LinearLogits(*reference))
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)
    wanted = torch.autograd.grad(expected, leaves)
    got = torch.autograd.grad(found, leaves)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= tol * other.abs().max()
    constant = case.call(LinearLogits(*leaves).detach(), labels, LinearLogits(*reference))
    assert not constant.requires_grad


def test_many_small_terms_beside_a_large_one_are_not_rounded_to_its_size() -> None:
    """The label's term of a hidden state's gradient is far larger than the thousands of others.

    A float32 product that adds them up one after another, as that with the logits in memory does,
    rounds each of them to its size: the same look finds it there.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 65, 64, generator=generator).requires_grad_()
    weight = torch.randn(30_000, 64, generator=generator).div(8.0).requires_grad_()
    labels = torch.randint(30_000, (1, 65), generator=generator)
    wide = hidden.detach().double().requires_grad_()
    loss = token_cross_entropy_loss(wide @ weight.detach().double().T, labels)
    exact = torch.autograd.grad(loss, wide)[0]
    errors = []
    for logits in (LinearLogits(hidden, weight), hidden @ weight.T):
        (found,) = torch.autograd.grad(token_cross_entropy_loss(logits, labels), hidden)
        errors.append(float((found - exact).abs().max() / exact.abs().max()))
    assert errors[0] <= 3e-7
    assert errors[1] > errors[0]


@pytest.mark.usefixtures("chunks")
def test_a_reference_may_be_in_memory_and_not_the_other_way_round() -> None:
    leaves, reference, labels = sample(torch.float64, bias=True)
    logits, constant = LinearLogits(*leaves), in_memory(reference)
    found = reference_kl_loss(logits, labels, reference_logits=constant)
    expected = reference_kl_loss(in_memory(leaves), labels, reference_logits=constant)
    torch.testing.assert_close(found, expected)
    by_log_probs = constant.log_softmax(-1)
    found = reference_kl_loss(logits, labels, reference_log_probs=by_log_probs)
    torch.testing.assert_close(found, expected)
    with pytest.raises(TypeError, match="Pass both in one form"):
        reference_kl_loss(in_memory(leaves), labels, reference_logits=LinearLogits(*reference))


@pytest.mark.usefixtures("chunks")
def test_what_is_at_ignored_positions_leaks_nowhere() -> None:
    leaves, _, labels = sample(torch.float32, bias=True)
    spoiled = [x.detach().clone().requires_grad_() for x in leaves]
    with torch.no_grad():
        spoiled[0][2] = torch.nan
        spoiled[0][:, -1] = torch.inf
    losses = [token_cross_entropy_loss(LinearLogits(*x), labels) for x in (leaves, spoiled)]
    assert losses[0] == losses[1]
    for one, other in zip(
        torch.autograd.grad(losses[0], leaves),
        torch.autograd.grad(losses[1], spoiled),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_frozen_output_matrix_gets_no_gradient() -> None:
    (hidden, weight, bias), _, labels = sample(torch.float32, bias=True)
    logits = LinearLogits(hidden, weight.detach(), bias.detach())
    token_cross_entropy_loss(logits, labels).backward()
    assert hidden.grad is not None
    assert weight.grad is bias.grad is None


def test_no_tensor_as_large_as_the_logits_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with the logits in memory one is, which the same look finds."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 1 << 13)
    hidden = torch.randn(2, 64, 8, requires_grad=True)
    weight = torch.randn(2048, 8, requires_grad=True)
    labels = torch.randint(2048, (2, 64))

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    found = []
    for logits in (LinearLogits(hidden, weight), hidden @ weight.T):
        with Largest() as seen:
            token_cross_entropy_loss(logits, labels).backward()
        found.append(seen.elements)
        gc.collect()
    assert found[0] <= max(1 << 13, weight.numel())
    assert found[1] >= 2 * 64 * 2048


@pytest.mark.parametrize("held", [False, True], ids=["as it is", "planted: the last one is held"])
def test_one_tile_is_alive_at_a_time(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 32)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 1 << 13)
    kept: list[Tensor] = []
    if held:
        made = blocks._logits

        def holding(*args):  # type: ignore[no-untyped-def]
            tile = made(*args)  # while the last one is still there
            kept[:] = [tile]
            return tile

        monkeypatch.setattr(blocks, "_logits", holding)
    hidden = torch.randn(2, 64, 8, requires_grad=True)
    weight = torch.randn(2048, 8, requires_grad=True)
    labels = torch.randint(2048, (2, 64))

    class Alive(TorchDispatchMode):
        most = 0
        storages: dict[int, StorageWeakRef]

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.untyped_storage().nbytes() == 4 << 13:
                ref = StorageWeakRef(out.untyped_storage())
                self.storages[ref.cdata] = ref
                alive = [ref for ref in self.storages.values() if not ref.expired()]
                self.storages = {ref.cdata: ref for ref in alive}
                self.most = max(self.most, len(alive))
            return out

    seen = Alive()
    seen.storages = {}
    with seen:
        token_cross_entropy_loss(LinearLogits(hidden, weight), labels).backward()
    assert seen.most == (2 if held else 1)


@pytest.mark.usefixtures("chunks")
def test_several_losses_share_logits_whose_matrix_is_the_embedding_too() -> None:
    (_, weight), reference, labels = sample(torch.float64, bias=False)
    tokens = labels.clamp_min(0)

    def gradient(promise: bool) -> Tensor:
        hidden = torch.nn.functional.embedding(tokens, weight).tanh()
        constant = in_memory(reference).detach()
        logits = LinearLogits(hidden, weight) if promise else hidden @ weight.T
        ascent = -0.3 * token_cross_entropy_loss(logits, labels.roll(1, 0))
        loss = token_cross_entropy_loss(logits, labels) + ascent
        loss = loss + reference_kl_loss(logits, labels, reference_logits=constant)
        return torch.autograd.grad(loss, weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (2, 1)])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_sequences_without_a_prediction_are_as_with_logits(
    case: LossCase, shape: tuple[int, int]
) -> None:
    leaves = [torch.randn(*shape, WIDTH).requires_grad_(), torch.randn(VOCABULARY, WIDTH)]
    leaves[1].requires_grad_()
    labels = torch.zeros(shape, dtype=torch.int64)
    told = []
    for logits in (LinearLogits(*leaves), in_memory(leaves)):
        try:
            loss = case.call(logits, labels, logits.detach())
            told.append([loss, *torch.autograd.grad(loss.sum(), leaves)])
        except (ValueError, TypeError) as error:
            told.append(str(error))
    if isinstance(told[1], str):
        assert told[0] == told[1]
    else:
        torch.testing.assert_close(told[0], told[1])


def test_a_label_outside_the_vocabulary_is_named() -> None:
    leaves, _, labels = sample(torch.float32, bias=False)
    labels[0, 4] = VOCABULARY
    with pytest.raises(ValueError, match=r"must lie in \[0, 11\)"):
        token_log_probs(LinearLogits(*leaves), labels)


@pytest.mark.parametrize(
    ("hidden", "weight", "bias", "error", "told"),
    [
        (torch.ones(2, 3), torch.ones(4, 3), None, ValueError, r"hidden \[B, T, d\]"),
        (torch.ones(1, 2, 3), torch.ones(4, 5), None, ValueError, r"\[1, 2, 3\] and \[4, 5\]"),
        (torch.ones(1, 2, 3), torch.ones(4, 3), torch.ones(3), ValueError, r"\[V\] = \[4\]"),
        (torch.ones(1, 2, 3), torch.ones(4, 3).double(), None, TypeError, "dtype of `hidden`"),
        (torch.ones(1, 2, 3).long(), torch.ones(4, 3), None, TypeError, "got torch.int64"),
        (torch.ones(1, 2, 3), torch.nn.Linear(3, 4), None, TypeError, "got Linear"),
    ],
)
def test_what_does_not_fit_is_refused(hidden, weight, bias, error, told) -> None:
    with pytest.raises(error, match=told):
        LinearLogits(hidden, weight, bias)


def test_a_second_derivative_is_refused() -> None:
    leaves, _, labels = sample(torch.float64, bias=False)
    loss = token_cross_entropy_loss(LinearLogits(*leaves), labels)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        torch.autograd.grad(loss, leaves[:1], create_graph=True)
