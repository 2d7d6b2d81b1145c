"""observe_: hand a weighting the losses after the update."""

import torch

from moopt.aggregators import GradientAggregator
from moopt.gradients.replicas import mean_over_processes
from moopt.records.step_record import StepRecord
from moopt.step.method_state import MethodState
from moopt.step.objectives import Losses, named_losses


def observe_(losses: Losses, memory: MethodState, last: StepRecord, *, replicas: bool) -> None:
    """Let a method learn from the losses of the last batch, computed again after the step.

    Args:
        losses: mapping name -> scalar, sequence of scalars or 1-D tensor, unscaled; only the
            values are looked at, and not those of objectives that the step left out.
        memory: what the method keeps.
        last: the record of the last step.
        replicas: whether there is a group whose processes train one model: their losses are
            averaged.

    Raises:
        TypeError: the method does not learn from them.
        ValueError: malformed losses, or an objective that was not in the last step.
    """
    method = memory.method
    if isinstance(method, GradientAggregator) or not method.observes:
        raise TypeError(
            f"{type(method).__name__} does not learn from the losses after the step; leave"
            " observe(...) out, or use a weighting that does, such as FAMO."
        )
    named, stepped = named_losses(losses, graph=False), last.names
    values = {name: value for name, value in named.items() if name not in last.left_out}
    unknown = [name for name in values if name not in stepped]
    if unknown:
        raise ValueError(
            f"observe() takes losses of the last step, which combined"
            f" {', '.join(stepped) or 'nothing'}; got {', '.join(unknown)}. Use the same names."
        )
    if len(stepped) < 2 or not values:
        return  # nothing was weighed, so there is nothing to learn from
    names = tuple(values)
    device = values[names[0]].device
    after = torch.stack([value.detach().to(device, torch.float64) for value in values.values()])
    if replicas:
        after = mean_over_processes(after)
    state = method.learn(memory.read(names), after.cpu().numpy(), names)
    memory.write(names, state, steps=0)
