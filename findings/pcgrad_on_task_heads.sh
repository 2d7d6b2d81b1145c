#!/usr/bin/env bash
# PCGrad of pytorch_optimizer, on a model with a task head.
#
# Guess: PCGrad changes the gradients that tasks share. A head that one loss alone reaches gets the
# gradient of that loss.
#
# Seen with pytorch_optimizer 4.1.0 (torch 2.13.0): all parameters are flattened into one vector per
# task, a head that a task does not reach counting as zeros, and projected. Where tasks conflict, the
# other task's projected row then has a part in the head: here the head's gradient is 4/3 for a loss
# whose own gradient is 1. And the two kinds are combined differently: `reduction="mean"` averages
# what all tasks reach and sums the rest, so with m tasks that agree a head learns m times as fast,
# beside the trunk, as under the sum of the losses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy pytorch_optimizer==4.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from pytorch_optimizer import PCGrad


def directions(sign):
    """What PCGrad leaves in .grad of a shared parameter and of the second task's head."""
    shared = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    head = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = PCGrad(torch.optim.SGD([shared, head], lr=0.1), reduction="mean")
    optimizer.pc_backward([shared[0] * 1.0, sign * shared[0] + shared[1] + head[0]])
    return torch.cat([shared.grad, head.grad])


# The two tasks' own gradients are (1, 0; 0) and (sign, 1; 1).
SEEN = {"conflict": (-1.0, [1 / 3, 2 / 3, 4 / 3]), "agreement": (1.0, [1.0, 0.5, 1.0])}
changed = 0
for name, (sign, seen) in SEEN.items():
    found = directions(sign)
    as_seen = torch.allclose(found, torch.tensor(seen), atol=1e-5)
    changed += not as_seen
    print(f"{name:10} shared {found[:2].tolist()} head {found[2:].tolist()}",
          "" if as_seen else "  CHANGED")
raise SystemExit(f"{changed} of {len(SEEN)} lines changed" if changed else 0)
PYTHON
