"""StepNumbers: the steps of one run, counted on from a checkpoint."""

import math
from collections.abc import Sequence

from moopt.records.step_record import StepRecord


class StepNumbers:
    """Number the records of one run; refuse those of another.

    A `CommonDescent` counts its own steps, so that a resumed run starts again at 0: `first_step`
    counts on from the checkpoint.

    Args:
        owner: who asks, for the messages.
        first_step: the number of the first record, an int >= 0; None takes `record.step` as it is.

    Raises:
        ValueError: `first_step` is not an integer >= 0.

    Example: a run that was saved after two steps and killed after three.
        >>> import moopt
        >>> from moopt.diagnostics.step_numbers import StepNumbers
        >>> numbers = StepNumbers("Mine", 2)
        >>> numbers.keep([0.0, 1.0, 2.0])
        2
        >>> [numbers(moopt.StepRecord(step=step)) for step in (0, 1)]
        [2, 3]
    """

    def __init__(self, owner: str, first_step: int | None) -> None:
        whole = isinstance(first_step, int) and not isinstance(first_step, bool)
        if first_step is not None and not (whole and first_step >= 0):
            raise ValueError(
                f"`first_step` of `{owner}` must be None or an int >= 0; got {first_step!r}. Use"
                " the number of steps that the checkpoint had done."
            )
        self._owner = owner
        self._first = first_step
        self._offset: int | None = None
        self._last = -math.inf

    def keep(self, steps: Sequence[float]) -> int:
        """How many of the rows that are there come before `first_step`.

        Args:
            steps: the step of each row; NaN where a row has none.

        Raises:
            ValueError: the steps go back, or do not tell which rows come before.
        """
        for step in steps:
            self._follow(step)
        if self._first is None:
            return len(steps)
        count = next((i for i, step in enumerate(steps) if step >= self._first), len(steps))
        if count > 1 and not steps[-1] > steps[0]:
            raise ValueError(
                f"`first_step` of `{self._owner}` needs rows that count their steps; got"
                f" {len(steps)} rows, none later than another. `moopt.backward` counts none:"
                " continue elsewhere, or use CommonDescent."
            )
        self._last = steps[count - 1] if count else -math.inf
        return count

    def __call__(self, record: StepRecord) -> int:
        """The record's number.

        Raises:
            ValueError: it is smaller than the last one.
        """
        if self._offset is None:
            self._offset = 0 if self._first is None else self._first - record.step
        number = record.step + self._offset
        self._follow(number)
        return number

    def _follow(self, step: float) -> None:
        if step < self._last:
            raise ValueError(
                f"`{self._owner}` must get the records of one run; got step {step:.0f} after"
                f" {self._last:.0f}. Make one for each run; a resumed run passes first_step=the"
                " number of steps that its checkpoint had done."
            )
        if step > self._last:
            self._last = step
