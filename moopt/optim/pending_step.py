"""Progress: what a `CommonDescent` remembers between two calls."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from torch import Tensor

from moopt.aggregators.base import Method
from moopt.gradients import GradientStore
from moopt.records.step_record import StepRecord


class Progress:
    """The rows in flight and the counters; a container, so that proxies never rebind anything.

    Attributes:
        store: rows that were recorded and not yet combined.
        losses: their unscaled losses; None where the caller gave none.
        record: the last published record.
        step: combined steps so far.
        bypassed: plain steps on gradients that no objective recorded.
        fallbacks: int64 scalar on the device, steps whose weighting broke its promise.
        combined: a direction waits in `.grad`.
        capturing: the objective whose block is open.
        unnamed: the length of an unnamed sequence of losses.
        checked: how often the processes combined each set of objectives.
        stepped: the objectives of the last combined step.
        unobserved: steps in a row after which the losses were not observed.
    """

    def __init__(self) -> None:
        self.store = GradientStore()
        self.losses: dict[str, Tensor | None] = {}
        self.record = StepRecord()
        self.step = 0
        self.bypassed = 0
        self.fallbacks: Tensor | None = None
        self.combined = False
        self.capturing: str | None = None
        self.unnamed: int | None = None
        self.checked: Counter[tuple[str, ...]] = Counter()
        self.stepped: tuple[str, ...] = ()
        self.unobserved = 0

    def drop_rows(self) -> None:
        """Forget what was recorded and not yet stepped along.

        Raises:
            RuntimeError: an objective's block is open.
        """
        if self.capturing is not None:
            raise RuntimeError(
                f"the gradients cannot be cleared inside objective({self.capturing!r}): that would"
                " drop the other objectives. Call optimizer.zero_grad() before the first block."
            )
        self.store.clear()
        self.losses.clear()
        self.combined = False

    @contextlib.contextmanager
    def capture(self, name: str) -> Iterator[None]:
        """Mark the block of one objective as open; blocks do not nest."""
        if self.capturing is not None:
            raise RuntimeError(
                f"objective({name!r}) was entered inside objective({self.capturing!r}); close one"
                " block before the next."
            )
        with self.dropping_rows_on_failure():
            self.capturing = name
            try:
                yield
            finally:
                self.capturing = None

    @contextlib.contextmanager
    def dropping_rows_on_failure(self) -> Iterator[None]:
        """After an exception, start over: half a step's rows would mix into the next one."""
        try:
            yield
        except BaseException as error:
            error.add_note("moopt dropped the rows of this step; `.grad` is as it was before.")
            self.drop_rows()
            raise

    def add_loss(self, name: str, loss: Tensor) -> None:
        """Add the value of a micro-batch's loss."""
        value = loss.detach().reshape(()).double()
        former = self.losses.get(name)
        self.losses[name] = value if former is None else former + value

    def publish(self, record: StepRecord, every: int, weighting: Method) -> None:
        """Count the step and its fallback; keep the record in every k-th step.

        Warn, once in a row, where the weighting learns from the losses after each step and was
        given none after the last one.
        """
        if self.fallbacks is not None:
            record.fallbacks = record.fallbacks + self.fallbacks.to(record.fallbacks.device)
        self.fallbacks = record.fallbacks
        if self.step % every == 0:
            self.record = record
        self.stepped = record.names
        self.losses.clear()
        self.combined = True
        self.step += 1
        self.unobserved += weighting.observes
        if self.unobserved == 2:
            warnings.warn(
                f"{type(weighting).__name__} learns from the losses after the step and was given"
                " none; call optimizer.observe(losses) after optimizer.step(), with the losses of"
                " the same batch computed again.",
                UserWarning,
                stacklevel=4,
            )

    def check_unnamed_length(self, length: int, named: bool) -> None:
        """Refuse an unnamed sequence of another length than the last one."""
        if named:
            return
        if self.unnamed not in (None, length):
            raise ValueError(
                f"an unnamed sequence of losses must keep its length; got {length} after"
                f" {self.unnamed}. Pass a mapping name -> loss: objectives may then come and go."
            )
        self.unnamed = length

    def refuse_second_direction(self, parameters: Sequence[Tensor]) -> None:
        """Refuse to record while a direction waits for `step()`."""
        if self.combined and all(p.grad is None for p in parameters):
            self.combined = False  # somebody else cleared the gradients: the step was skipped
        if self.combined:
            raise RuntimeError(
                "the direction of the previous backward was not used; call optimizer.step() or"
                " optimizer.zero_grad() first, or pass accumulate=True for micro-batches."
            )

    def count_bypass(self) -> None:
        """Count a plain step on gradients that no objective recorded; warn the first time."""
        self.bypassed += 1
        if self.bypassed == 1:
            warnings.warn(
                "CommonDescent.step() ran on gradients that no objective recorded: a plain step of"
                " the wrapped optimizer. Call optimizer.backward(losses), not loss.backward().",
                UserWarning,
                stacklevel=5,
            )
