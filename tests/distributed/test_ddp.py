"""Two gloo processes under DistributedDataParallel: equal to one, or refused."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import moopt
from tests.distributed.processes import leave
from tests.optimizer.problems import OneOutput, batch, seeded

STEPS = 3
# (micro-batches, method, fused)
CASES = ((1, "MGDA", False), (2, "MGDA", False), (2, "MoCo", False), (2, "MGDA", True))
DDP_RTOL = 1e-6  # the mean of two half batches, in float32


def loss_of(net, name, x):
    y = net(x)
    return {
        "a": lambda: (y[:, 0] - 1).square().mean(),
        "b": lambda: (y[:, 0] + y[:, 1]).square().mean(),
    }[name]()


def train(net, model, parts, micro_batches=1, method="MGDA", fused=False):
    """Objective "b" joins in the second step; all but the last micro-batch run without sync."""
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    optimizer = moopt.CommonDescent(base, method, fused=fused)
    for step in range(STEPS):
        optimizer.zero_grad()
        pieces = parts(batch(step)).chunk(micro_batches)
        for name in "ab"[: 1 + step]:
            for i, x in enumerate(pieces):
                last = i == len(pieces) - 1
                local = net.no_sync if hasattr(net, "no_sync") and not last else nullcontext
                with local():
                    loss = loss_of(net, name, x) / len(pieces)
                    with optimizer.objective(name, loss):
                        loss.backward()
        optimizer.combine_()
        optimizer.step()
    return optimizer.record


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    result = {}
    for case in CASES:
        model = seeded(OneOutput)
        replica = DistributedDataParallel(model.net)
        record = train(replica, model, lambda x: x.chunk(2)[rank], *case)
        result[case] = {"model": model.state_dict(), "weights": record.weights}

    refused = seeded(OneOutput)
    wrapped = DistributedDataParallel(refused.net)
    optimizer = moopt.CommonDescent(torch.optim.SGD(refused.parameters(), lr=0.1), moopt.MGDA())
    y = wrapped(batch().chunk(2)[rank])
    try:
        optimizer.backward({"a": (y[:, 0] - 1).square().mean(), "b": y.square().mean()})
        result["error"] = None
    except RuntimeError as error:
        result["error"] = str(error)
    torch.save(result, f"{folder}/{rank}.pt")
    leave()


def test_two_processes_are_one_and_a_wrong_set_up_is_refused(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in CASES:
        model = seeded(OneOutput)
        record = train(model.net, model, lambda x: x, method=case[1])
        first, second = (result[case] for result in results)
        for key, value in model.state_dict().items():
            assert torch.equal(first["model"][key], second["model"][key])
            torch.testing.assert_close(
                first["model"][key], value, rtol=10 * DDP_RTOL, atol=DDP_RTOL
            )
        torch.testing.assert_close(first["weights"], record.weights, rtol=1e-4, atol=1e-6)
    for result in results:
        assert result["error"] is not None
        assert "one forward and backward per objective" in result["error"]
