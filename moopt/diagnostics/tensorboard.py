"""TensorBoardWriter: the numbers of every record as scalars."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moopt.records.step_record import StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardWriter:
    """Write every record to TensorBoard; call it with each record.

    Args:
        writer: a `SummaryWriter`, which stays yours to close, or the folder for a new one.
        prefix: of every tag; default "moopt".
        every: write the first of every k calls; reading a record waits for the device. Default 1.

    Raises:
        ImportError: a folder was given and tensorboard is not installed (the extra `log`).
        ValueError: `every` is not a positive integer.

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
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(
                f"`every` of `TensorBoardWriter` must be an int >= 1; got {every!r}. Use 1."
            )
        if isinstance(writer, str | os.PathLike):
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "TensorBoardWriter needs tensorboard for a folder: pip install tensorboard"
                ) from error
            writer = SummaryWriter(os.fspath(writer))
        self.writer = writer
        self.prefix = prefix
        self.every = every
        self._calls = 0
        self._last: StepRecord | None = None

    def __call__(self, record: StepRecord) -> None:
        """Write the record's numbers at its step; nothing where it is the last one again."""
        if record is self._last:
            return
        self._last = record
        if self._calls % self.every == 0:
            for key, value in record.as_dict().items():
                self.writer.add_scalar(f"{self.prefix}/{key}", value, record.step)
        self._calls += 1
