"""note_bypass: a plain step on gradients that no objective recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from moopt.aggregators.base import Method
from moopt.optim.pending_step import Progress
from moopt.step.method_state import refuse_unallocated


def note_bypass(
    progress: Progress,
    param_groups: Sequence[dict[str, Any]],
    parameters: Sequence[Tensor],
    weighting: Method,
) -> None:
    """Count a plain `step()` where `.grad` exists and nothing was recorded; warn the first time.

    Distributed checkpointing builds the optimizer's state by one step with zero learning rate and
    zero gradients: that is no bypass, but a stateful weighting must have its state by then.

    Raises:
        RuntimeError: that probe found a stateful weighting without state.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    frozen = all(group.get("lr", 1.0) == 0 for group in param_groups)
    if frozen and not any(bool(gradient.any()) for gradient in gradients):
        refuse_unallocated(param_groups[0], weighting)
    else:
        progress.count_bypass()
