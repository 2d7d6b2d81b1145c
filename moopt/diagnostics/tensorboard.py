"""TensorBoardWriter: the numbers of every record as scalars."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from moopt.diagnostics.step_numbers import StepNumbers
from moopt.records.step_record import StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardWriter:
    """Write every record to TensorBoard; call it with each record.

    A run that resumes from a checkpoint passes as `first_step` the number of steps that the
    checkpoint had done, because the records of the new process count from 0 again. In a folder,
    what a killed run wrote from that step on is then hidden.

    Args:
        writer: a `SummaryWriter`, which stays yours to close, or the folder for a new one.
        prefix: of every tag; default "moopt".
        every: write the first of every k calls. Default 1.
        first_step: the step of the first record that comes; None, the default, takes `record.step`
            as it is.

    Raises:
        ImportError: a folder was given and tensorboard is not installed (the extra `log`).
        ValueError: `every` is not a positive integer, or `first_step` not an integer >= 0.

    Example:
        >>> import torch, moopt
        >>> from moopt.diagnostics import TensorBoardWriter
        >>> class Printer:  # any object with `add_scalar` serves
        ...     def add_scalar(self, tag, value, step):
        ...         if "weight" in tag:
        ...             print(tag, value, step)
        >>> write, w = TensorBoardWriter(Printer()), torch.nn.Parameter(torch.ones(1))
        >>> write(moopt.backward({"a": w.sum()}, [w]))
        moopt/weight/a 1.0 0
    """

    def __init__(
        self,
        writer: SummaryWriter | str | os.PathLike[str],
        *,
        prefix: str = "moopt",
        every: int = 1,
        first_step: int | None = None,
    ) -> None:
        self._step_of = StepNumbers("TensorBoardWriter", first_step)
        if not isinstance(every, int) or every < 1:
            raise ValueError(
                f"`every` of `TensorBoardWriter` must be an int >= 1; got {every!r}. Use 1."
            )
        self._owns_writer = isinstance(writer, str | os.PathLike)
        if isinstance(writer, str | os.PathLike):
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "TensorBoardWriter needs tensorboard for a folder: pip install tensorboard"
                ) from error
            writer = SummaryWriter(os.fspath(writer), purge_step=first_step)
        self.writer = writer
        self.prefix = prefix
        self.every = every
        self._calls = 0
        self._last: StepRecord | None = None

    def __call__(self, record: StepRecord) -> None:
        """Write the record's numbers at its step; nothing where it is the last one again.

        Raises:
            ValueError: the record's step is smaller than the last one's.
        """
        if record is self._last:
            return
        step = self._step_of(record)
        self._last = record
        if self._calls % self.every == 0:
            for key, value in record.as_dict().items():
                self.writer.add_scalar(f"{self.prefix}/{key}", value, step)
        self._calls += 1

    def close(self) -> None:
        """Flush what was written, and close a writer that was made here; twice does nothing."""
        if self._owns_writer:
            self.writer.close()
        elif hasattr(self.writer, "flush"):
            self.writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
