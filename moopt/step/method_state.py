"""MethodState: what a method keeps from step to step, by objective name."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import torch

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.aggregators.base import Method
from moopt.gradients.averaged import rows_key
from moopt.gradients.replicas import mean_over_processes
from moopt.records.result import State
from moopt.records.step_record import StepRecord
from moopt.step.objectives import Losses, named_losses
from moopt.weightings.cleared import merged, restricted
from moopt.weightings.draws import COUNTER

NAMES_KEY = "moopt_names"
REACHED_KEY = "moopt_reached"  # positions of parameters that an objective ever reached
STEP_KEY = "moopt_step"
METHOD_KEY = "moopt_method"
DRAWS_KEY = "moopt_draws"  # what the random numbers of a method with a counter come from
DRAWS = "philox"
_PREFIX = "moopt_state_"


def is_stateful(method: Method) -> bool:
    """Whether the method keeps anything from step to step."""
    return bool(method.state_entries) or isinstance(method, TrackingAggregator)


class MethodState:
    """The state of one method, read and written by objective name while objectives come and go.

    It is stored in any mutable mapping of plain values: the first parameter group of an optimizer,
    so that every kind of checkpoint keeps it, or a dictionary of the caller's.

    Args:
        method: whose state it is.
        mapping: where it is stored.
    """

    def __init__(self, method: Method, mapping: MutableMapping[str, Any]) -> None:
        self.method, self.mapping = method, mapping
        self.entries = method.state_entries
        self.is_stateful = is_stateful(method)

    @property
    def names(self) -> list[str]:
        """Every objective that ever had a place, in the order of the entries."""
        return list(self.mapping.get(NAMES_KEY, ()))

    def step(self, otherwise: int) -> int:
        """How many steps the method has taken; `otherwise` for one that keeps no count."""
        return int(self.mapping.get(STEP_KEY, otherwise))

    def make_room(self, names: Sequence[str]) -> None:
        """Give every objective in `names` a place; new ones start as the method says.

        Raises:
            ValueError: the mapping holds the state of another method.
        """
        self.refuse_other()
        known = self.names
        everyone = known + [name for name in names if name not in known]
        if everyone == known:
            return
        for key, entry in self.entries.items():
            value = entry.array(len(everyone))
            if known and entry.axes:
                value[(slice(0, len(known)),) * entry.axes] = self._array(key)
            elif known:
                value = self._array(key)
            self.mapping[_PREFIX + key] = torch.from_numpy(value)
        self.mapping.setdefault(STEP_KEY, 0)
        self.mapping[METHOD_KEY] = type(self.method).__name__
        if self._is_random:
            self.mapping[DRAWS_KEY] = DRAWS
        self.mapping[NAMES_KEY] = everyone

    def read(self, names: Sequence[str]) -> State:
        """The state of the objectives in `names`, in that order; {} for a stateless method."""
        if not self.is_stateful:
            return {}
        self.make_room(names)
        whole = {key: self._array(key) for key in self.entries}
        if list(names) == self.names:
            return whole
        return restricted(whole, self.method.state_axes, self._places(names))

    def write(self, names: Sequence[str], state: State, *, steps: int = 1) -> None:
        """Write the state of the objectives in `names` back; the others keep theirs.

        Args:
            names: as for `read`, which comes first.
            state: aligned with them.
            steps: by how many the count of steps advances; 0 if no step was combined.
        """
        if not self.is_stateful:
            return
        if list(names) != self.names:
            whole = {key: self._array(key) for key in self.entries}
            state = merged(whole, state, self.method.state_axes, self._places(names))
        for key in self.entries:
            # A copy: what is saved must not share memory with what the method returned.
            self.mapping[_PREFIX + key] = torch.from_numpy(np.array(state[key]))
        self.mapping[STEP_KEY] += steps

    def observe(self, losses: Losses, last: StepRecord, *, replicas: bool) -> None:
        """Let the method learn from the losses of the last batch, computed again after the step.

        Args:
            losses: mapping name -> scalar, sequence of scalars or 1-D tensor, unscaled; only the
                values are looked at, and not those of objectives that the step left out.
            last: the record of the last step.
            replicas: whether there is a group whose processes train one model: their losses are
                averaged.

        Raises:
            TypeError: the method does not learn from them.
            ValueError: malformed losses, or an objective that was not in the last step.
        """
        method = self.method
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
        state = method.learn(self.read(names), after.cpu().numpy(), names)
        self.write(names, state, steps=0)

    def refuse_other(self) -> None:
        """Raise where a checkpoint's state is of another method.

        Raises:
            ValueError: the mapping names objectives but another method, or lacks an entry.
        """
        method, mapping = self.method, self.mapping
        told = f"the loaded state is of another weighting than {method}"
        remedy = "Build CommonDescent with the weighting that was saved."
        if mapping.get(METHOD_KEY, type(method).__name__) != type(method).__name__:
            raise ValueError(f"{told}: it is that of {mapping[METHOD_KEY]}. {remedy}")
        if not mapping.get(NAMES_KEY):
            return
        if self._is_random and mapping.get(DRAWS_KEY) != DRAWS:
            raise ValueError(
                f"the loaded state of {type(method).__name__} is of a version of moopt that drew"
                " other random numbers. Finish the run with that version, or delete the keys"
                " `moopt_...` of the first parameter group to begin with fresh draws."
            )
        missing = [key for key in self.entries if _PREFIX + key not in mapping]
        if isinstance(method, TrackingAggregator):
            prefix = rows_key(method, "")
            missing += [] if any(key.startswith(prefix) for key in mapping) else [method.row_name]
        if missing:
            raise ValueError(f"{told}: it lacks {', '.join(missing)}. {remedy}")

    def refuse_missing(self) -> None:
        """Raise where a distributed checkpoint would drop the state, because there is none yet.

        Raises:
            RuntimeError: no objective has a place.
        """
        if self.is_stateful and NAMES_KEY not in self.mapping:
            raise RuntimeError(
                f"the state of {type(self.method).__name__} does not exist before the first step: a"
                " distributed checkpoint would drop it; pass objectives=(names) to CommonDescent."
            )

    @property
    def _is_random(self) -> bool:
        return any(key.endswith(COUNTER) for key in self.entries)

    def _array(self, key: str) -> Any:
        return self.mapping[_PREFIX + key].detach().cpu().numpy()

    def _places(self, names: Sequence[str]) -> Any:
        known = self.names
        return np.array([known.index(name) for name in names], dtype=np.intp)
