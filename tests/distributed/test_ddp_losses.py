"""Methods that look at losses, in two gloo processes: the same weights in both, those of one."""

from __future__ import annotations

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import moopt
from moopt.scalarizations import FAMO, STCH, UW
from tests.distributed.processes import leave
from tests.optimizer.problems import OneOutput, batch, seeded

STEPS = 3
DDP_RTOL = 1e-6  # the mean of two half batches, in float32

METHODS = {
    "stch": STCH(preference=[1.0, 2.0], mu=0.1),
    "uw": UW(lr=0.5),
    "famo": FAMO(lr=0.1),
    "mgda loss": moopt.MGDA(normalize="loss"),
}


def losses_of(net, x):
    y = net(x)
    return {"a": (y[:, 0] - 1).square().mean(), "b": (y[:, 0] + y[:, 1]).square().mean()}


def train(net, model, weighting, part):
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), weighting)
    for step in range(STEPS):
        optimizer.zero_grad()
        x = part(batch(step))
        if isinstance(weighting, moopt.MGDA):
            for name in "ab":
                loss = losses_of(net, x)[name]
                with optimizer.objective(name, loss):
                    loss.backward()
            optimizer.combine_()
        else:
            optimizer.backward(losses_of(net, x))
        optimizer.step()
        if weighting.observes:
            with torch.no_grad():
                optimizer.observe(losses_of(net, x))
    return optimizer.record.weights


def refusal(model, part, losses=losses_of):
    """What an unwrapped model says: nothing averages its gradients."""
    optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1), STCH())
    try:
        optimizer.backward(losses(model.net, part(batch())))
    except RuntimeError as error:
        return str(error)
    return None


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )

    def half(x):
        return x.chunk(2)[rank]

    def names_by_rank(net, x):
        return {f"{name}{rank}": loss for name, loss in losses_of(net, x).items()}

    result = {}
    for name, weighting in METHODS.items():
        model = seeded(OneOutput)
        weights = train(DistributedDataParallel(model.net), model, weighting, half)
        result[name] = {"model": model.state_dict(), "weights": weights}
    result["unwrapped"] = refusal(seeded(OneOutput), half)
    result["names"] = refusal(seeded(OneOutput), half, names_by_rank)
    torch.save(result, f"{folder}/{rank}.pt")
    leave()


def test_weights_made_of_losses_are_the_same_in_every_process(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, weighting in METHODS.items():
        model = seeded(OneOutput)
        weights = train(model.net, model, weighting, lambda x: x)
        assert torch.equal(first[name]["weights"], second[name]["weights"]), name
        torch.testing.assert_close(first[name]["weights"], weights, rtol=1e-4, atol=1e-6)
        for key, value in model.state_dict().items():
            mine, other = first[name]["model"][key], second[name]["model"][key]
            assert torch.equal(mine, other), name
            torch.testing.assert_close(mine, value, rtol=10 * DDP_RTOL, atol=DDP_RTOL)
    for result in (first, second):
        assert "Wrap the model in DistributedDataParallel" in result["unwrapped"]
        assert "the processes combine different objectives" in result["names"]
