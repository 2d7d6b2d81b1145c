"""JsonLinesWriter: one line of JSON per record."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moopt.diagnostics.history import History
from moopt.diagnostics.one_run import Writer
from moopt.records.step_record import StepRecord


class JsonLinesWriter(Writer):
    """Write every record to a file, one JSON object a line; call it with each record.

    Each line is written and flushed at once, so that a run that is killed loses nothing. Values
    that are not finite become null, which JSON has.

    A file is of one run. One that holds records already is refused, unless `first_step` says where
    this run comes in: its records from that step on are removed, and what this run writes is
    counted from there. So `first_step=0` starts a new file, and a run that resumes from a
    checkpoint passes the number of steps that the checkpoint had done: the steps that are done
    again, and a last line that was cut, are replaced.

    Args:
        path: the file; its folder must exist.
        first_step: the step of the first record that comes; None, the default, takes `record.step`
            as it is and needs a file that does not exist or is empty.

    Raises:
        OSError: the file cannot be opened for writing.
        FileExistsError: the file holds records, and `first_step` was not given.
        ValueError: `first_step` is not an integer >= 0, or the file holds something else than the
            records of one run.

    Example:
        >>> import pathlib, tempfile, torch, moopt
        >>> from moopt.diagnostics import JsonLinesWriter, read_json_lines
        >>> w, path = torch.nn.Parameter(torch.ones(1)), pathlib.Path(tempfile.mkdtemp(), "a.jsonl")
        >>> with JsonLinesWriter(path) as write:
        ...     write(moopt.backward({"a": w.sum()}, [w]))
        >>> with JsonLinesWriter(path, first_step=1) as write:
        ...     write(moopt.backward({"a": w.sum()}, [w]))
        >>> read_json_lines(path).series("step").tolist()
        [0.0, 1.0]
    """

    def __init__(self, path: str | os.PathLike[str], *, first_step: int | None = None) -> None:
        super().__init__(first_step)
        path = Path(path)
        size = path.stat().st_size if path.exists() else 0
        if size and first_step is None:
            raise FileExistsError(
                f"the file of `JsonLinesWriter` must not hold records yet; got {str(path)!r} with"
                f" {size} bytes. Pass first_step=0 to start over, or first_step=k to continue a"
                " run from a checkpoint after k steps."
            )
        kept: list[bytes] = []
        if size and first_step:
            lines = _lines(path)
            found = list(_rows(lines, path.name, cut_at_the_end=True))
            if count := self._rows_before([row for _, row in found]):
                kept = lines[: found[count - 1][0]]
        # Open from call to call; `close` or the context manager ends it.
        self._file = path.open("a", encoding="utf-8")
        if (end := sum(map(len, kept))) < size:
            self._file.truncate(end)
        if kept and not kept[-1].endswith(b"\n"):
            self._file.write("\n")

    def __call__(self, record: StepRecord) -> None:
        """Write one line; none where the record is the last one again.

        Raises:
            ValueError: the writer is closed, or the record's step is smaller than the last one's.
        """
        if self._file.closed:
            raise ValueError(
                "this JsonLinesWriter is closed. Make a new one; first_step says where it goes on."
            )
        super().__call__(record)

    def _keep(self, record: StepRecord, step: int) -> None:
        numbers = record.as_dict() | {"step": float(step)}
        row = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _rows(
    lines: list[bytes], name: str, *, cut_at_the_end: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line that is not blank, and its row; without a last one that was cut."""
    last = -math.inf
    for number, line in enumerate(lines, start=1):
        where, theirs = f"line {number} of {name}", "Pass a file that JsonLinesWriter wrote."
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            cut = number == len(lines) and line.startswith(b"{") and not line.endswith(b"\n")
            if cut and cut_at_the_end:  # a record, and not somebody's notes
                return
            raise ValueError(
                f"{where} must be a JSON object; it is not JSON ({error}). A run that was killed"
                " may have cut it: remove that line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} must be a JSON object; got {type(row).__name__}. {theirs}")
        row = {key: math.nan if value is None else value for key, value in row.items()}
        step = row.get("step", last)
        if not isinstance(step, int | float):
            raise ValueError(
                f"{where} must be a JSON object whose step is a number; got {step!r}. {theirs}"
            )
        if step < last:
            raise ValueError(
                f"{where} must not go back; got step {step:.0f} after {last:.0f}. The file holds"
                " several runs: split it before that line."
            )
        last = step
        yield number, row


def read_json_lines(path: str | os.PathLike[str]) -> History:
    """The history that a `JsonLinesWriter` wrote; null reads as NaN.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a JSON object, or its step is smaller than that of the line
            before: the file holds several runs. The message names the line's number.

    Example: see `JsonLinesWriter`.
        >>> import pathlib, tempfile
        >>> from moopt.diagnostics import read_json_lines
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = path.write_text('{"weight/a": 1.0, "loss/a": null}')
        >>> read_json_lines(path).table("loss")
        tensor([[nan]], dtype=torch.float64)
    """
    return History(row for _, row in _rows(_lines(Path(path)), Path(path).name))
