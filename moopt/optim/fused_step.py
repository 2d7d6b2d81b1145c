"""fused_step: a step of torch's SGD, Adam or AdamW along a direction that is never written."""

import dataclasses
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from moopt.gradients import HoldingStore, Row
from moopt.gradients.held import refuse_used
from moopt.kernels.combine_update import ADAM, SGD, combine_update_

UPDATES = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Whose update the kernels know; a subclass may compute another one."""

_MOMENTS = ("exp_avg", "exp_avg_sq")
_LARGEST = "max_exp_avg_sq"


def refuse_unfit(optimizer: torch.optim.Optimizer) -> None:
    """Raise where a fused step would not be the step of `optimizer`.

    Raises:
        TypeError: it is none of torch's SGD, Adam and AdamW, or holds complex parameters.
        ValueError: a setting that the kernels do not have.
        RuntimeError: hooks or a replaced `step`, which would not run.
    """
    if type(optimizer) not in UPDATES:
        raise TypeError(
            "fused=True needs torch.optim.SGD, Adam or AdamW itself, whose updates it knows; got"
            f" {type(optimizer).__module__}.{type(optimizer).__name__}. Use one of them, or"
            " fused=False."
        )
    for group in optimizer.param_groups:
        for name in ("differentiable", "capturable"):
            if group.get(name):
                raise ValueError(
                    f"fused=True has no `{name}` updates; got a parameter group with {name}=True."
                    f" Use {name}=False, or CommonDescent(..., fused=False)."
                )
        if any(map(torch.is_complex, group["params"])):
            raise TypeError(
                "fused=True needs real parameters; got complex ones. Use"
                " CommonDescent(..., fused=False)."
            )
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    if any(hooks):
        _refuse_bypass("step hooks of the wrapped optimizer, or of all optimizers")
    # A scheduler's own wrapper only notes that a step was taken, and is told so.
    if "step" in vars(optimizer) and not hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        _refuse_bypass("a replaced `step` of the wrapped optimizer")


def _refuse_bypass(what: str) -> NoReturn:
    raise RuntimeError(
        f"fused=True takes the step in place of the wrapped optimizer; got {what}, which would not"
        " run. Register hooks on the CommonDescent itself, or use fused=False."
    )


def fused_step(optimizer: torch.optim.Optimizer, store: HoldingStore) -> Any:
    """Take one step along the direction that `store` holds back, which is then gone.

    Unfused where the optimizer has no state yet for a parameter that takes part: it makes its own.
    Gradients that lie in `.grad` as such (of one backward pass in all, of a single objective) are
    stepped along by the optimizer itself.

    Args:
        optimizer: the wrapped one; its state is written as it would write it.
        store: of the CommonDescent.

    Returns:
        What the optimizer's step returns: None.

    Raises:
        TypeError, ValueError, RuntimeError: as `refuse_unfit`; or `.grad` was replaced.
    """
    refuse_unfit(optimizer)
    held = store.held
    if held is None:
        refuse_used([p for group in optimizer.param_groups for p in group["params"]])
        return optimizer.step()
    held.refuse_replaced()
    batches = _batches(optimizer, held.terms(), store)
    if batches is None:
        store.held = None
        held.write_()
        return optimizer.step()
    steps = [step for batch in batches.values() for step in batch.steps]
    for device in {step.device for step in steps}:
        torch._foreach_add_([step for step in steps if step.device == device], 1)
    for batch in batches.values():
        batch.run(held.weights)
    store.held = None
    if "step" in vars(optimizer):  # what a scheduler's wrapper notes there, or else it warns
        optimizer._opt_called = True  # type: ignore[attr-defined]
    return None


@dataclasses.dataclass(eq=False)
class _Batch:
    """Parameters with as many states, all weighted or all not: one call of the kernel.

    Attributes:
        weighted: whether the weights count; else every row counts once.
        parameters: those of the batch.
        states: the states of each.
        rows: the rows of each, and last what lay in `.grad` before.
        groups: the parameter group of each.
        steps: the step counts of each, under Adam.
    """

    weighted: bool
    parameters: list[Tensor] = dataclasses.field(default_factory=list)
    states: list[list[Tensor]] = dataclasses.field(default_factory=list)
    rows: list[Row] = dataclasses.field(default_factory=list)
    groups: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    steps: list[Tensor] = dataclasses.field(default_factory=list)

    def run(self, weights: Any) -> None:
        """Update the parameters and their states."""
        rows = list(map(list, zip(*self.rows, strict=True)))
        where = weights.device if isinstance(weights, Tensor) else None
        whole = torch.ones(len(rows), dtype=torch.float64, device=where)
        if self.weighted:
            whole = torch.cat([torch.as_tensor(weights, dtype=torch.float64), whole[:1]])
        if all(before is None for before in rows[-1]):
            rows.pop()
        states = list(map(list, zip(*self.states, strict=True)))
        combine_update_(self.parameters, states, rows, whole[: len(rows)], self._numbers())

    def _numbers(self) -> Tensor:
        """float64 `[T, S]`, in host memory unless a number lies on a CUDA device."""
        names, of = (ADAM, _adam) if self.steps else (SGD, _sgd)
        host, elsewhere = [], []
        for t, group in enumerate(self.groups):
            numbers = dict(of(group))
            if self.steps:
                numbers["step"] = self.steps[t]
            for name, value in numbers.items():
                if isinstance(value, Tensor) and value.is_cuda:
                    elsewhere.append((t, names.index(name), value))
                    numbers[name] = 0.0
            host.append([float(numbers[name]) for name in names])
        made = torch.tensor(host, dtype=torch.float64)
        if elsewhere:  # without waiting for the device
            at, column, values = zip(*elsewhere, strict=True)
            device = values[0].device
            made = made.to(device)
            found = torch.stack([value.detach().reshape(()) for value in values]).double()
            made[torch.tensor(at).to(device), torch.tensor(column).to(device)] = found
        return made


def _sgd(group: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: group[name] for name in SGD}


def _adam(group: Mapping[str, Any]) -> Mapping[str, Any]:
    decoupled = group["decoupled_weight_decay"]
    return {
        "lr": group["lr"],
        "beta1": group["betas"][0],
        "beta2": group["betas"][1],
        "eps": group["eps"],
        "coupled_decay": 0.0 if decoupled else group["weight_decay"],
        "decoupled_decay": group["weight_decay"] if decoupled else 0.0,
        "maximize": group["maximize"],
    }


def _batches(
    optimizer: torch.optim.Optimizer, terms: Mapping[int, tuple[bool, Row]], store: HoldingStore
) -> dict[tuple[int, bool], _Batch] | None:
    """What is to be updated; None where a state is missing.

    As torch does, parameters without `.grad` are passed over. A gradient that no objective made is
    a row by itself.
    """
    state_of: Callable[..., list[Tensor] | None]
    state_of = _sgd_states if type(optimizer) is torch.optim.SGD else _adam_states
    batches: dict[tuple[int, bool], _Batch] = {}
    most = max((len(row) for _, row in terms.values()), default=1)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            weighted, row = terms.get(id(parameter), (False, []))
            if not row:
                refuse_used([parameter])
                row = [gradient]
            state = optimizer.state.get(parameter, {})
            states = state_of(group, state)
            if states is None:
                return None
            batch = batches.setdefault((len(states), weighted), _Batch(weighted))
            batch.parameters.append(parameter)
            batch.states.append(states)
            batch.rows.append([*repeat(None, most - len(row)), *row])
            batch.groups.append(group)
            if "step" in state:
                batch.steps.append(state["step"])
    return batches


def _sgd_states(group: Mapping[str, Any], state: Mapping[str, Any]) -> list[Tensor] | None:
    if group["momentum"] == 0:
        return []
    buffer = state.get("momentum_buffer")
    return None if buffer is None else [buffer]


def _adam_states(group: Mapping[str, Any], state: Mapping[str, Any]) -> list[Tensor] | None:
    names = (*_MOMENTS, _LARGEST) if group["amsgrad"] else _MOMENTS
    if "step" not in state or not all(name in state for name in names):
        return None
    return [state[name] for name in names]
