"""History: the records of a run, as rows of plain numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from moopt.diagnostics.one_run import OneRun
from moopt.records.step_record import StepRecord, cosine_key


class History(OneRun):
    """The records of a run; call it with each record, as a callback.

    Objectives may come and go: where one was absent the tables hold NaN. Reading a record waits
    for the device, so `every=k` keeps every k-th record only. In steps that build no record
    (`record_every` of CommonDescent) the last one comes again, and is not counted again. A history
    is of one run: a record whose step is smaller than the last one's is refused.

    Args:
        rows: flat rows to begin with, as `StepRecord.as_dict()` gives them.
        every: keep the first of every k calls; default 1.
        first_step: the step of the first record that comes, for a run that continues `rows` after a
            checkpoint of so many steps: rows from that step on give way to the steps that are
            done again. None, the default, keeps every row and takes `record.step` as it is.

    Raises:
        ValueError: `every` is not a positive integer, `first_step` none >= 0, or `rows` are not of
            one run.

    Example:
        >>> import torch, moopt
        >>> from moopt.diagnostics import History
        >>> w, history = torch.nn.Parameter(torch.ones(2)), History()
        >>> for _ in range(3):
        ...     history(moopt.backward({"a": w[0] + w[1], "b": w[0] - w[1]}, [w]))
        >>> history.objectives, history.table("weight").shape
        (('a', 'b'), torch.Size([3, 2]))
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, float]] = (),
        *,
        every: int = 1,
        first_step: int | None = None,
    ) -> None:
        super().__init__(first_step, every)
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]
        del self.rows[self._rows_before(self.rows) :]

    def _keep(self, record: StepRecord, step: int) -> None:
        self.rows.append(record.as_dict() | {"step": float(step)})

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives' names, in order of appearance."""
        return tuple(dict.fromkeys(self.names_after("weight/") + self.names_after("loss/")))

    def names_after(self, prefix: str) -> tuple[str, ...]:
        """What follows `prefix` in any row's keys, in order of appearance."""
        keys = dict.fromkeys(key for row in self.rows for key in row if key.startswith(prefix))
        return tuple(key.removeprefix(prefix) for key in keys)

    def series(self, key: str) -> Tensor:
        """float64 `[T]`: one number per row, such as "stationarity"; NaN where a row lacks it.

        Raises:
            ValueError: there are rows, and every one lacks it.
        """
        if self.rows and not any(key in row for row in self.rows):
            keys = dict.fromkeys(key.partition("/") for row in self.rows for key in row)
            there = dict.fromkeys(name + (slash and "/...") for name, slash, _ in keys)
            raise ValueError(
                f"`key` of `History.series` must be in a row; got {key!r}. There are"
                f" {', '.join(there)}. A scalarization's single pass measures no gradients."
            )
        return self._columns([key])[:, 0]

    def _columns(self, keys: Sequence[str]) -> Tensor:
        """float64 `[T, k]`: the numbers under each key; NaN where a row lacks it."""
        numbers = [[row.get(key, math.nan) for key in keys] for row in self.rows]
        return torch.tensor(numbers, dtype=torch.float64).reshape(len(self), len(keys))

    def table(self, quantity: str) -> Tensor:
        """float64 `[T, m]`: "loss", "weight", "norm" or "inactive" of every objective.

        Raises:
            ValueError: another quantity.
        """
        if quantity not in ("loss", "weight", "norm", "inactive"):
            raise ValueError(
                "`quantity` of `History.table` must be 'loss', 'weight', 'norm' or 'inactive'; got"
                f" {quantity!r}. Other numbers: `history.series(key)`."
            )
        return self._columns([f"{quantity}/{name}" for name in self.objectives])

    def cosines(self) -> Tensor:
        """float64 `[T, m, m]`: the cosines between gradients; NaN where one was absent."""
        names = self.objectives
        keys = [cosine_key(first, second) for first in names for second in names]
        written = self._columns(keys).reshape(len(self), len(names), len(names))
        out = torch.where(written.isnan(), written.mT, written)  # a pair is written in one order
        present = ~self.table("norm").isnan()
        out.diagonal(dim1=-2, dim2=-1)[present] = 1.0
        return out
