"""The store keeps what autograd handed over, and nothing is written twice."""

from __future__ import annotations

import pytest
import torch

from moopt.gradients import GradientStore, resume_row, set_aside_gradients, take_gradients


def test_gradients_are_taken_without_a_copy():
    p = torch.nn.Parameter(torch.ones(3))
    p.square().sum().backward()
    address = p.grad.data_ptr()
    (row,) = take_gradients([p])
    assert row.data_ptr() == address
    assert p.grad is None


def test_slices_of_one_buffer_are_copied():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    torch.cat([a, b]).square().sum().backward()
    assert a.grad.untyped_storage().data_ptr() == b.grad.untyped_storage().data_ptr()
    first, second = take_gradients([a, b])
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert first.tolist() == second.tolist() == [2.0, 2.0]


def test_set_aside_restores_the_same_tensors_also_after_an_error():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = kept = torch.ones(3)
    with set_aside_gradients([p]):
        assert p.grad is None
    assert p.grad is kept
    with pytest.raises(ZeroDivisionError), set_aside_gradients([p]):
        p.grad = kept / (1 // 0)
    assert p.grad is kept


def test_parameters_that_change_between_objectives_are_refused():
    a, b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    store = GradientStore()
    assert store.take("x", [a]) == [None]
    store.add("x", [torch.ones(2)])
    with pytest.raises(RuntimeError, match="the parameters changed"):
        store.take("y", [b])


def test_a_row_is_taken_back_to_accumulate_into():
    a, b = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    store = GradientStore()
    store.take("x", [a, b])
    first = torch.ones(2)
    store.add("x", [first, None])
    row = store.take("x", [a, b])
    resume_row([a, b], row)
    (a.sum() + b.sum()).backward()
    row = take_gradients([a, b])
    assert row[0] is first
    assert [g.tolist() for g in row] == [[2.0, 2.0], [1.0, 1.0]]
    store.add("x", row)
    assert len(store) == 1


def test_a_buffer_that_is_written_again_is_refused():
    # what DistributedDataParallel(gradient_as_bucket_view=True) does
    bucket = torch.ones(2)
    store = GradientStore()
    store.add("x", [bucket])
    with pytest.raises(RuntimeError, match="gradient_as_bucket_view=False"):
        store.add("y", [bucket])


def test_lazy_conjugates_become_memory():
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    c = torch.randn(3, dtype=torch.complex64)
    (p.conj() * c).real.sum().backward()
    assert p.grad.is_conj()
    (row,) = take_gradients([p])
    assert not row.is_conj()


def test_shared_positions():
    a, b, c = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    store = GradientStore()
    one = torch.ones
    store.take("x", [a, b, c])
    store.add("x", [one(1), one(1), None])
    assert store.shared(None) == [True, True, False]  # a single objective: all it reaches
    store.add("y", [one(1), None, one(1)])
    assert store.shared(None) == [True, False, False]
    assert store.shared({id(c)}) == [False, False, True]
    direction = store.combine_(torch.tensor([0.5, 0.25]).double(), [True, False, False])
    assert [d.tolist() for d in direction] == [[0.75], [1.0], [1.0]]
    assert len(store) == 0


def test_sharded_gradients_are_refused(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate, distribute_tensor

        mesh = init_device_mesh("cpu", (1,))
        sharded = distribute_tensor(torch.ones(2), mesh, [Replicate()])
        with pytest.raises(TypeError, match="DTensor"):
            GradientStore().add("x", [sharded])
    finally:
        distributed.destroy_process_group()
