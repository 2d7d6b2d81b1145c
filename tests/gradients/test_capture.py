"""What a backward pass left in `.grad` becomes a row that owns its memory, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from moopt.gradients import GradientStore
from tests.gradients.rows import leaves, record


def test_gradients_are_taken_without_a_copy():
    (p,) = parameters = leaves(3)
    store = GradientStore()
    with store.recording("x", parameters):
        p.square().sum().backward()
        address = p.grad.data_ptr()
    assert store.rows["x"][0].data_ptr() == address
    assert p.grad is None


def test_slices_of_one_buffer_are_copied():
    a, b = parameters = leaves(2, 2)
    store = GradientStore()
    with store.recording("x", parameters):
        torch.cat([a, b]).square().sum().backward()
        assert a.grad.untyped_storage().data_ptr() == b.grad.untyped_storage().data_ptr()
    first, second = store.rows["x"]
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert first.tolist() == second.tolist() == [2.0, 2.0]


def test_the_same_tensors_come_back_to_grad_also_after_an_error():
    (p,) = parameters = leaves(3)
    p.grad = kept = torch.ones(3)
    store = GradientStore()
    with store.recording("x", parameters):
        assert p.grad is None
    assert p.grad is kept
    with pytest.raises(ZeroDivisionError), store.recording("y", parameters):
        p.grad = kept / (1 // 0)
    assert p.grad is kept


def test_parameters_that_change_between_objectives_are_refused():
    a, b = leaves(2, 2)
    store = GradientStore()
    record(store, "x", [a], a.sum)
    for others in ([b], [a, b], []):
        with pytest.raises(RuntimeError, match="the parameters changed"):
            record(store, "y", others, a.sum)


def test_one_name_for_an_objective_and_an_auxiliary_row_is_refused():
    (a,) = leaves(2)
    store = GradientStore()
    record(store, "x", [a], a.sum)
    with pytest.raises(ValueError, match="'x' is both an objective and an auxiliary row"):
        record(store, "x", [a], a.sum, auxiliary=True)


def test_passes_of_one_name_add_up():
    a, b = parameters = leaves(2, 2)
    store = GradientStore()
    (first, nothing) = record(store, "x", parameters, a.sum)
    assert nothing is None
    row = record(store, "x", parameters, lambda: a.sum() + b.sum())
    assert row[0] is first
    assert [g.tolist() for g in row] == [[2.0, 2.0], [1.0, 1.0]]
    assert len(store) == 1
    assert a.grad is b.grad is None


def test_values_of_micro_batches_add_up():
    store = GradientStore()
    store.add_loss("x", torch.tensor(0.1, requires_grad=True))
    store.add_loss("x", torch.tensor(0.1))
    store.add_loss("x", None)
    store.add_loss("y", None)
    assert store.losses["x"].dtype == torch.float64
    assert store.losses["x"].item() == 2 * torch.tensor(0.1).item()
    assert store.losses["y"] is None
    store.add_loss("y", torch.tensor(1.0))
    assert store.losses["y"].item() == 1.0


def test_a_loss_that_leaves_no_gradient_is_seen():
    a, b = leaves(2, 2)
    store = GradientStore()
    record(store, "x", [a], a.sum)
    record(store, "y", [a], b.sum)
    assert store.reached("x")
    assert not store.reached("y")
    assert not store.is_empty()
    store.drop("x")
    assert list(store.rows) == ["y"]
    assert store.is_empty()


# ------------------------------------------------------------------ memory that is another's


def test_a_buffer_that_is_written_again_is_refused():
    (p,) = parameters = leaves(2)
    buffer = torch.ones(2)
    store = GradientStore()
    with store.recording("x", parameters):
        p.grad = buffer
    with (
        pytest.raises(RuntimeError, match="'y' were written over those of 'x'"),
        store.recording("y", parameters),
    ):
        p.grad = buffer


class Bucket:
    """What DistributedDataParallel(gradient_as_bucket_view=True) does, for a bucket per parameter.

    Every pass begins with an empty bucket, and `.grad` is a view of it.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.buckets = [torch.zeros(p.numel()) for p in parameters]

    def backward(self, *gradients: float | None) -> None:
        for p, bucket, value in zip(self.parameters, self.buckets, gradients, strict=True):
            bucket.zero_()
            if value is not None:
                p.grad = bucket.fill_(value).view(p.shape)


def test_rows_in_the_buckets_of_a_wrapper_are_not_written_over():
    trunk, head = parameters = leaves(2, 3)
    bucket, store = Bucket(parameters), GradientStore()
    for name, gradients in {"a": (1.0, 5.0), "b": (2.0, None)}.items():
        with store.recording(name, parameters):
            bucket.backward(*gradients)
    store.gramian(flags := store.shared(None))
    store.write_direction_([1.0, 1.0], flags)
    assert trunk.grad.tolist() == [3.0, 3.0]
    assert head.grad.tolist() == [5.0, 5.0, 5.0]  # was lost: the second pass emptied its bucket


def test_a_gradient_that_waits_in_a_bucket_comes_back():
    (p,) = parameters = leaves(2)
    bucket, store = Bucket(parameters), GradientStore()
    bucket.backward(7.0)
    waiting = p.grad
    for name in "ab":
        with store.recording(name, parameters):
            bucket.backward(1.0)
        assert p.grad is waiting
        assert waiting.tolist() == [7.0, 7.0]
    store.write_direction_([1.0, 1.0], [True])
    assert p.grad.tolist() == [9.0, 9.0]


def test_a_parameter_that_is_its_own_gradient_is_not_written_over():
    (p,) = parameters = leaves(2)
    store = GradientStore()
    with store.recording("decay", parameters):
        p.grad = p.detach()
    store.write_direction_([3.0], [True])
    assert p.tolist() == [1.0, 1.0]
    assert p.grad.tolist() == [3.0, 3.0]


def test_gradients_that_a_hook_keeps_are_not_written_over():
    (p,) = parameters = leaves(2)
    kept = []
    p.register_hook(lambda gradient: kept.append(gradient.view(-1)))
    store = GradientStore()
    record(store, "x", parameters, p.sum)
    store.write_direction_([3.0], [True])
    assert kept[0].tolist() == [1.0, 1.0]


def test_lazy_conjugates_become_memory():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    c = torch.randn(3, dtype=torch.complex64)
    store = GradientStore()
    with store.recording("x", [p]):
        (p.conj() * c).real.sum().backward()
        assert p.grad.is_conj()
    assert not store.rows["x"][0].is_conj()


# ------------------------------------------------------------------ what is refused


def refused(parameters: list[Tensor], loss: Callable[[], Tensor], match: str) -> None:
    """A TypeError, before which and after which `.grad` is the same."""
    store = GradientStore()
    with pytest.raises(TypeError, match=match), store.recording("x", parameters):
        loss().backward()
    assert all(p.grad is None for p in parameters)
    assert len(store) == 0


def test_sparse_gradients_are_refused():
    embedding = torch.nn.Embedding(3, 2, sparse=True)
    refused([embedding.weight], lambda: embedding(torch.tensor([1])).sum(), "sparse=False")


def test_subclasses_that_wrap_other_tensors_are_refused():
    p = torch.nn.Parameter(TwoTensor(torch.ones(2), torch.ones(2)))
    refused([p], p.sum, "TwoTensor")


def test_sharded_parameters_are_refused_before_the_backward_pass(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate, distribute_tensor

        mesh = init_device_mesh("cpu", (1,))
        sharded = torch.nn.Parameter(distribute_tensor(torch.ones(2), mesh, [Replicate()]))
        refused([sharded], lambda: pytest.fail("a backward pass ran"), "DTensor")
    finally:
        distributed.destroy_process_group()
