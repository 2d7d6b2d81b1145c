"""shares_graph: which losses can free their graph as soon as they are differentiated."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.autograd.graph import Node


def shares_graph(losses: Sequence[Tensor]) -> list[bool]:
    """For each loss, whether a later one needs a part of its graph again.

    Visits every node of the graphs once. Leaves do not count: a parameter that two graphs use
    holds nothing that a backward pass frees.

    Args:
        losses: scalars with a graph, in the order in which they are differentiated.

    Returns:
        One flag per loss; the last one is always False.
    """
    seen: set[Node] = set()
    flags = [False] * len(losses)
    for i in range(len(losses) - 1, -1, -1):
        root = losses[i].grad_fn
        stack = [] if root is None else [root]
        own: set[Node] = set()
        while stack:
            node = stack.pop()
            if node in seen:
                flags[i] = True
                continue
            if node in own or not node.next_functions:
                continue  # AccumulateGrad, and nodes without inputs, have no next functions
            own.add(node)
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
        seen |= own
    return flags
