"""JsonLinesWriter: one line of JSON per record."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType

from moopt.diagnostics.history import History
from moopt.record import StepRecord


class JsonLinesWriter:
    """Append every record to a file, one JSON object a line; call it with each record.

    Each line is written and flushed at once, so that a run that is killed loses nothing, and an
    existing file is continued, on a new line where its last one was cut. Values that are not
    finite become null, which JSON has.

    Args:
        path: the file; its folder must exist.

    Raises:
        OSError: the file cannot be opened for writing.

    Example:
        >>> import pathlib, tempfile, torch, moopt
        >>> from moopt.diagnostics import JsonLinesWriter, read_json_lines
        >>> w, path = torch.nn.Parameter(torch.ones(1)), pathlib.Path(tempfile.mkdtemp(), "a.jsonl")
        >>> with JsonLinesWriter(path) as write:
        ...     write(moopt.backward({"a": w.sum()}, [w]))
        >>> read_json_lines(path).objectives
        ('a',)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Open from call to call; `close` or the context manager ends it.
        self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115
        if _is_cut(Path(path)):
            self._file.write("\n")
        self._last: StepRecord | None = None

    def __call__(self, record: StepRecord) -> None:
        """Write one line; none where the record is the last one again.

        Raises:
            ValueError: the writer is closed.
        """
        if self._file.closed:
            raise ValueError("this JsonLinesWriter is closed. Make a new one: it appends.")
        if record is self._last:
            return
        self._last = record
        row = {k: v if math.isfinite(v) else None for k, v in record.as_dict().items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> JsonLinesWriter:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _is_cut(path: Path) -> bool:
    """Whether a file has an end that is not the end of a line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() not in (b"", b"\n")


def read_json_lines(path: str | os.PathLike[str]) -> History:
    """The history that a `JsonLinesWriter` wrote; null reads as NaN.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a JSON object; the message names its number.

    Example: see `JsonLinesWriter`.
        >>> import pathlib, tempfile
        >>> from moopt.diagnostics import read_json_lines
        >>> path = pathlib.Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = path.write_text('{"weight/a": 1.0, "loss/a": null}')
        >>> read_json_lines(path).table("loss")
        tensor([[nan]], dtype=torch.float64)
    """
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"line {number} of {Path(path).name} must be a JSON object; it is not JSON"
                f" ({error.msg}). A run that was killed may have cut it: remove that line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"line {number} of {Path(path).name} must be a JSON object; got"
                f" {type(row).__name__}. Pass a file that JsonLinesWriter wrote."
            )
        rows.append({key: math.nan if value is None else value for key, value in row.items()})
    return History(rows)
