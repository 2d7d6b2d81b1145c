"""Two gloo processes: gradients in a wrapper's buckets, and what the replicas must agree on."""

from __future__ import annotations

from collections import Counter

import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import moopt
from moopt.gradients import GradientStore
from moopt.gradients.replicas import check
from tests.distributed.processes import leave

NAMES = "abc"


class Heads(torch.nn.Module):
    """A trunk and a head for each objective."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = torch.nn.Linear(4, 8)
        self.heads = torch.nn.ModuleDict({n: torch.nn.Linear(8, 3, bias=False) for n in NAMES})

    def forward(self, x, name):
        return self.heads[name](self.trunk(x).tanh())


def direction(rank, *, bucket_view, waiting):
    """`.grad` after one step of three objectives; a regulariser may wait in it."""
    net = Heads()
    # so small a cap that every parameter has a bucket to itself
    model = DistributedDataParallel(
        net, find_unused_parameters=True, gradient_as_bucket_view=bucket_view, bucket_cap_mb=1e-6
    )
    optimizer = moopt.CommonDescent(torch.optim.SGD(net.parameters(), lr=0.1), moopt.Sum())
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(rank))
    if waiting:
        model(x, "a").sum().backward()
    for name in NAMES:
        with optimizer.objective(name):
            model(x, name).square().mean().backward()
    optimizer.combine_()
    return {name: p.grad for name, p in net.named_parameters()}


def refusal(gradients, counter):
    """What `check` says of one row for each list of gradients, over a trunk and a head."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    store = GradientStore()
    for i, (trunk, head) in enumerate(gradients):
        with store.recording(str(i), parameters):
            parameters[0].grad = torch.full((2,), trunk)
            parameters[1].grad = torch.full((2,), head)
    shared = [True, False]
    try:
        store.check_replicas(store.gramian(shared), shared, counter)
    except RuntimeError as error:
        return str(error)
    return None


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    result = {
        (waiting, view): direction(rank, bucket_view=view, waiting=waiting)
        for waiting in (False, True)
        for view in (False, True)
    }
    mine = float(1 + rank)
    counter = Counter()
    result["equal"] = refusal([(1.0, 1.0), (2.0, 3.0)], counter)
    result["trunk"] = refusal([(mine, 1.0), (2.0, 3.0)], Counter())
    result["head"] = refusal([(1.0, 1.0), (2.0, mine)], Counter())
    result["small trunk"] = refusal([(1e-4 * mine, 1.0), (2.0, 3.0)], Counter())
    result["second"] = refusal([(mine, 1.0), (2.0, 3.0)], counter)
    result["third"] = refusal([(mine, 1.0), (2.0, 3.0)], counter)
    result["a counter of its own"] = refusal([(mine, 1.0), (2.0, 3.0)], Counter())
    try:
        check(torch.eye(1, dtype=torch.float64), (f"name {rank}",), Counter())
    except RuntimeError as error:
        result["names"] = str(error)
    torch.save(result, f"{folder}/{rank}.pt")
    leave()


def test_buckets_lose_nothing_and_replicas_are_compared(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        for waiting in (False, True):
            plain, buckets = result[waiting, False], result[waiting, True]
            for name, gradient in plain.items():
                assert gradient.norm() > 0, name
                torch.testing.assert_close(buckets[name], gradient, msg=f"{name}, {waiting}")
        for case in ("equal", "third"):
            assert result[case] is None, case
        for case in ("trunk", "head", "small trunk", "second", "a counter of its own"):
            assert "the processes hold different gradients" in result[case], case
        assert "the processes combine different objectives" in result["names"]
