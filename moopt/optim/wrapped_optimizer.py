"""WrappedOptimizer: a torch optimizer whose groups, state and defaults are another's."""

from operator import attrgetter
from typing import Any

import torch


def _of_the_wrapped(name: str, doc: str) -> Any:
    """A property that reads and writes an attribute of the wrapped optimizer."""

    def write(owner: Any, value: Any) -> None:
        setattr(owner.optimizer, name, value)

    return property(attrgetter(f"optimizer.{name}"), write, doc=doc)


class WrappedOptimizer(torch.optim.Optimizer):
    """Everything but `step` and `zero_grad` of a `torch.optim.Optimizer` around another one.

    `param_groups`, `state` and `defaults` are properties: a copied reference would point at dead
    lists as soon as `load_state_dict` gives the wrapped optimizer new ones. Nothing else is
    forwarded.
    """

    # A fused base advertises that it unscales by itself; forwarding that would let a GradScaler
    # skip the unscaling of a direction it has never seen.
    _step_supports_amp_scaling = False

    optimizer: torch.optim.Optimizer

    param_groups: list[dict[str, Any]] = _of_the_wrapped(
        "param_groups", "The wrapped optimizer's parameter groups (the same object, always)."
    )
    state: Any = _of_the_wrapped("state", "The wrapped optimizer's state.")
    defaults: dict[str, Any] = _of_the_wrapped(
        "defaults", "The wrapped optimizer's default hyper-parameters."
    )

    def __getstate__(self) -> dict[str, Any]:
        # Schedulers patch `step` on the instance with a closure that cannot be pickled.
        return {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "step"}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the wrapped optimizer."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state; a weighting's own lies in its first parameter group."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.optimizer.state_dict()
        for after in self._optimizer_state_dict_post_hooks.values():
            replaced = after(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a state dict of the wrapped optimizer alone."""
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = before(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        self.optimizer.load_state_dict(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _before_step(self, closure: Any) -> Any:
        """Run the hooks before a step of this optimizer; they may replace its closure."""
        args: tuple[Any, ...] = (self, closure)
        kwargs: dict[str, Any] = {}
        for hook in self._optimizer_step_pre_hooks.values():
            args, kwargs = hook(self, args, kwargs) or (args, kwargs)
        return kwargs.get("closure", args[1] if len(args) > 1 else None)

    def _after_step(self, closure: Any) -> None:
        """Run the hooks after a step of this optimizer."""
        for hook in self._optimizer_step_post_hooks.values():
            hook(self, (self, closure), {})
