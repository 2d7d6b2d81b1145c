"""Untrained: objectives that take part in no step for long, named in a warning, once each."""

from collections import Counter
from collections.abc import Mapping

from moopt.optim.callers import warn
from moopt.records.step_record import StepRecord
from moopt.step.device_memory import OnDevice

ALWAYS_INACTIVE = 20
"""An objective that is not trained in so many steps in a row is named in a warning."""

_INACTIVE = (
    "gradient is below `inactive_tol` of the longest one. If it is not rounding, multiply the loss"
    " by a constant, or pass CommonDescent(inactive_tol=0)."
)


class Untrained(Counter[str]):
    """For each objective the steps in a row without it."""

    def follow(self, record: StepRecord, neglected: Mapping[str, str]) -> None:
        """Count one step.

        Args:
            record: of the step.
            neglected: the objectives without a weight to speak of, and why that is so.
        """
        for name in record.names:
            inactive = name in record.inactive
            if not (inactive or name in neglected) or name in record.left_out:
                self.pop(name, None)
                continue
            self._reach(name, self[name] + 1, _INACTIVE if inactive else neglected[name])

    def follow_read(self, on_device: OnDevice) -> None:
        """Take the counts over that came with a record which somebody read from the device."""
        for name, steps in on_device.idle.items():
            self._reach(name, steps, _INACTIVE)
        on_device.idle = {}

    def _reach(self, name: str, steps: int, why: str) -> None:
        before, self[name] = self[name], steps
        if before < ALWAYS_INACTIVE <= steps:
            what = f"objective {name!r} was left out of {ALWAYS_INACTIVE} steps in a row"
            warn(f"{what}: its {why}")
