"""token_log_probs: chunks, memory, label errors. The losses' tests cover its values further."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moopt.kernels.token_logprob import chunks, token_kl_divergences, token_log_probs


def batch(
    shape: tuple[int, int, int] = (3, 5, 17), dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator).mul(4).to(dtype)
    labels = torch.randint(0, shape[-1], shape[:2], generator=generator)
    return logits, labels.masked_fill(torch.rand(shape[:2], generator=generator) < 0.3, -100)


@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_equals_log_softmax(shape: tuple[int, int, int], dtype: torch.dtype, seed: int) -> None:
    logits, labels = batch(shape, dtype, seed)
    values, mask = token_log_probs(logits, labels)
    assert values.shape == mask.shape == (shape[0], shape[1] - 1)
    assert torch.equal(mask, labels[:, 1:] != -100)
    expected = logits.double()[:, :-1].log_softmax(-1)
    expected = expected.gather(-1, labels[:, 1:].clamp_min(0)[..., None]).squeeze(-1)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(values.double(), expected.where(mask, 0.0), rtol=1e-5, atol=1e-5)
    assert (values <= 0).all()


def all_results(logits: Tensor, labels: Tensor, reference: Tensor) -> list[Tensor]:
    leaf = logits.clone().requires_grad_()
    results = []
    for values in (
        token_log_probs(leaf, labels).values,
        token_kl_divergences(leaf, reference, labels).values,
        token_kl_divergences(leaf, reference, labels, reverse=True).values,
    ):
        leaf.grad = None
        (values * torch.arange(values.numel()).view_as(values)).sum().backward()
        assert leaf.grad is not None
        results += [values.detach(), leaf.grad]
    return results


@pytest.mark.parametrize("elements", [1, 17, 40, 100])
def test_chunks_change_nothing(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = batch()
    reference, _ = batch(seed=1)
    whole = all_results(logits, labels, reference)
    monkeypatch.setattr(chunks, "CPU_CHUNK_ELEMENTS", elements)
    assert len(list(chunks.row_chunks(logits.flatten(0, 1)))) > 1
    for got, expected in zip(all_results(logits, labels, reference), whole, strict=True):
        torch.testing.assert_close(got, expected)


class Allocations(TorchDispatchMode):
    """The (elements, bytes) of every new tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not function.is_view and "_(" not in str(function._schema):
            self.seen.append((out.numel(), out.numel() * out.element_size()))
        return out


def allocations(function: Callable[[Tensor], Tensor], logits: Tensor) -> list[tuple[int, int]]:
    hidden = logits.clone().requires_grad_() * 1.0
    with Allocations() as mode:
        function(hidden).sum().backward()
    return mode.seen


def test_no_copy_of_the_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CPU_CHUNK_ELEMENTS", 34)
    logits, labels = batch(dtype=torch.bfloat16)
    reference, _ = batch(dtype=torch.bfloat16, seed=1)
    calls = (
        lambda z: token_log_probs(z, labels).values,
        lambda z: token_kl_divergences(z, reference, labels).values,
        lambda z: token_kl_divergences(z, reference, labels, reverse=True).values,
    )
    for call in calls:
        full = [bytes_ for elements, bytes_ in allocations(call, logits) if elements > 34]
        # The gradient of the logits, in their dtype, and then that of the product above.
        assert full == [logits.numel() * 2] * 2


def test_the_memory_check_can_fail() -> None:
    logits, _ = batch(dtype=torch.bfloat16)
    allocated = allocations(lambda z: z.float().log_softmax(-1).mean(), logits)
    assert any(bytes_ == logits.numel() * 4 for _, bytes_ in allocated)


@pytest.mark.parametrize("label", [17, 5000, -1, -101])
def test_labels_outside_the_vocabulary(label: int) -> None:
    logits, labels = batch()
    labels[1, 2] = label
    with pytest.raises(ValueError, match=r"must lie in \[0, 17\).*ignore_index=-100; got values"):
        token_log_probs(logits, labels)


def test_the_first_label_is_never_read() -> None:
    logits, labels = batch()
    expected = token_log_probs(logits, labels).values
    labels[:, 0] = 5000
    assert torch.equal(token_log_probs(logits, labels).values, expected)


def test_other_errors_are_not_renamed() -> None:
    logits, labels = batch()
    with pytest.raises(RuntimeError):
        token_log_probs(logits.to("meta"), labels)


def test_probability_zero_saturates_and_keeps_its_gradient() -> None:
    logits = torch.tensor([[[-3e38, 3e38], [0.0, 0.0]]], requires_grad=True)
    values, _ = token_log_probs(logits, torch.tensor([[0, 0]]))
    assert values.item() == torch.finfo(torch.float32).min
    values.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[[1.0, -1.0], [0.0, 0.0]]]


def test_another_ignore_index() -> None:
    logits, labels = batch()
    expected = token_log_probs(logits, labels)
    got = token_log_probs(logits, labels.masked_fill(labels == -100, -1), ignore_index=-1)
    assert torch.equal(got.values, expected.values)
    assert torch.equal(got.mask, expected.mask)


def test_many_gradients_at_once() -> None:
    # One backward pass, batched over outputs: what a Jacobian of several objectives asks for.
    logits, labels = batch()
    leaf = logits.requires_grad_()
    values = token_log_probs(leaf, labels).values
    rows = torch.eye(values.numel()).view(-1, *values.shape)
    (got,) = torch.autograd.grad(values, leaf, rows, is_grads_batched=True, retain_graph=True)
    expected = [torch.autograd.grad(values, leaf, row, retain_graph=True)[0] for row in rows]
    torch.testing.assert_close(got, torch.stack(expected))
