"""OneRun and Writer: what takes the records of one run, each once, counted on from a checkpoint."""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Self

from moopt.records.step_record import StepRecord


class OneRun(abc.ABC):
    """Takes the records of one run, each once; refuses those of another.

    A `CommonDescent` counts its own steps, so that a resumed run starts again at 0: `first_step`
    counts on from the checkpoint.

    Args:
        first_step: the number of the first record, an int >= 0; None takes `record.step` as it is.
        every: keep the first of every k records, an int >= 1.

    Raises:
        ValueError: `first_step` or `every` is something else.

    Example: a run that was saved after two steps and killed after three.
        >>> import moopt
        >>> from moopt.diagnostics.one_run import OneRun
        >>> class Printer(OneRun):
        ...     def _keep(self, record, step):
        ...         print(step)
        >>> printer = Printer(2)
        >>> printer._rows_before([{"step": 0.0}, {"step": 1.0}, {"step": 2.0}])
        2
        >>> for step in (0, 1):
        ...     printer(moopt.StepRecord(step=step))
        2
        3
    """

    def __init__(self, first_step: int | None, every: int = 1) -> None:
        self._owner = type(self).__name__
        whole = isinstance(first_step, int) and not isinstance(first_step, bool)
        if first_step is not None and not (whole and first_step >= 0):
            raise ValueError(
                f"`first_step` of `{self._owner}` must be None or an int >= 0; got {first_step!r}."
                " Use the number of steps that the checkpoint had done."
            )
        if not isinstance(every, int) or every < 1:
            raise ValueError(
                f"`every` of `{self._owner}` must be an int >= 1; got {every!r}. Use 1."
            )
        self.every = every
        self._first = first_step
        self._offset: int | None = None
        self._last_step = -math.inf
        self._last: StepRecord | None = None
        self._calls = 0

    @abc.abstractmethod
    def _keep(self, record: StepRecord, step: int) -> None:
        """Do with a record, and the number of its step, what this is for."""

    def __call__(self, record: StepRecord) -> None:
        """Take a record, whose numbers are read now; a second time changes nothing.

        Raises:
            ValueError: its step is smaller than that of the last one.
        """
        if record is self._last:
            return
        if self._offset is None:
            self._offset = 0 if self._first is None else self._first - record.step
        step = record.step + self._offset
        self._follow(step)
        self._last = record
        if self._calls % self.every == 0:
            self._keep(record, step)
        self._calls += 1

    def _rows_before(self, rows: Sequence[Mapping[str, float]]) -> int:
        """How many of the rows that are there already come before `first_step`.

        Raises:
            ValueError: the steps go back, or do not tell which rows come before.
        """
        steps = [row.get("step", math.nan) for row in rows]
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
        self._last_step = steps[count - 1] if count else -math.inf
        return count

    def _follow(self, step: float) -> None:
        if step < self._last_step:
            raise ValueError(
                f"`{self._owner}` must get the records of one run; got step {step:.0f} after"
                f" {self._last_step:.0f}. Make one for each run; a resumed run passes"
                " first_step=the number of steps that its checkpoint had done."
            )
        self._last_step = max(self._last_step, step)  # a step of NaN changes nothing


class Writer(OneRun):
    """Takes the records of one run to a place that is closed in the end: a context manager."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the writing; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
