"""Two gloo processes: what every model of a process is told, and what all processes leave out."""

from __future__ import annotations

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import moopt
from tests.distributed.processes import leave

NAN = float("nan")


def linear():
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 2)
    return net, DistributedDataParallel(net)


def losses(y):
    return {"a": y[:, 0].square().mean(), "b": (y[:, 1] - 1.0).square().mean()}


def refused(x):
    """What `moopt.backward` says of two losses of one forward, which DDP does not synchronise."""
    net, model = linear()
    try:
        moopt.backward(losses(model(x)), torch.optim.SGD(net.parameters(), lr=0.1))
    except RuntimeError as error:
        return str(error)
    return None


def left_out(x, bad):
    """A step in which one process alone has a loss that is not finite."""
    net, model = linear()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer = moopt.CommonDescent(sgd, skip_non_finite=True)
    for name in "ab":
        loss = losses(model(x))[name]
        with optimizer.objective(name, loss.detach() * float("nan") if name == bad else loss):
            loss.backward()
    record = optimizer.combine_()
    optimizer.step()
    return record.left_out, record.skipped, net.state_dict()


def stepped(x, told):
    """Rows that DDP makes equal beside losses that differ between the processes."""
    net, model = linear()
    optimizer = moopt.CommonDescent(torch.optim.SGD(net.parameters(), lr=0.1))
    for name in "ab":
        loss = losses(model(x))[name] * (1e-7 if name == "b" else 1.0)
        with optimizer.objective(name, told(loss.detach()) if name == "b" else loss):
            loss.backward()
    record = optimizer.combine_()
    return record.active, int(record.status), [p.grad.clone() for p in net.parameters()]


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(rank))
    result = {"refused": [refused(x) for _ in range(4)]}
    result["left out"] = left_out(x, "b" if rank == 0 else None)
    result["local losses"] = [
        stepped(x, lambda loss, k=k: loss * (k if rank else 1.0)) for k in (1e4, NAN)
    ]
    torch.save(result, f"{folder}/{rank}.pt")
    leave()


def test_every_model_is_compared_and_all_leave_out_what_one_must(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for message in (*first["refused"], *second["refused"]):
        assert message is not None
        assert "the processes hold different gradients" in message
    (names, skipped, parameters), (others, _, replica) = first["left out"], second["left out"]
    assert names == others == ("b",)
    assert skipped == 1
    for key, value in parameters.items():
        assert value.isfinite().all()
        assert torch.equal(value, replica[key])
    for one, other in zip(first["local losses"], second["local losses"], strict=True):
        assert torch.equal(one[0], other[0])
        assert one[1] == other[1]
        for gradient, same in zip(one[2], other[2], strict=True):
            assert torch.equal(gradient, same)
