"""TensorBoardWriter: the numbers of every record as scalars."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moopt.diagnostics.one_run import Writer
from moopt.records.step_record import StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardWriter(Writer):
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
        super().__init__(first_step, every)
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

    def _keep(self, record: StepRecord, step: int) -> None:
        for key, value in record.as_dict().items():
            self.writer.add_scalar(f"{self.prefix}/{key}", value, step)

    def close(self) -> None:
        """Flush what was written, and close a writer that was made here; twice does nothing."""
        if self._owns_writer:
            self.writer.close()
        elif hasattr(self.writer, "flush"):
            self.writer.flush()
