"""form: whether the compiled kernels run, and if not, why."""

import ctypes
import functools
import warnings
from collections.abc import Sequence

import torch

from moopt.kernels import dispatch
from moopt.kernels.dispatch import FORCED, Form
from moopt.kernels.native.library import library
from moopt.kernels.native.operations import probe
from moopt.kernels.pieces import Position, first_in


def native_form() -> Form:
    """The form of long rows in host memory: "native", or "reference" and why.

    A library is used once it has given what exact sums give; if it does not, a warning says so.
    """
    return FORCED if dispatch.REFERENCE_ONLY else _checked(*library())


def native_serves(
    checked: Sequence[Position], m: int, *, rows: int | None = None, wide_rows: int | None = None
) -> bool:
    """Whether the compiled kernels are there, and faster than numpy and torch on so many rows.

    Args:
        checked: what `moopt.kernels.pieces.positions` returned.
        m: the number of rows.
        rows: of how many float32 or float64 rows at most; None means any number. Those in 16 bits
            cost numpy and torch a copy.
        wide_rows: the same for float64 alone, whose products are BLAS's own ground.
    """
    if native_form().name != "native":
        return False
    dtype = first_in(checked[0]).dtype if checked else torch.float32
    many = rows is not None and m > rows and dtype.itemsize > 2
    return not many and not (wide_rows is not None and m > wide_rows and dtype == torch.float64)


@functools.cache
def _checked(compiled: ctypes.CDLL | None, why_not: str) -> Form:
    if compiled is None:
        return Form("reference", why_not)
    told = probe()
    if not told:
        return Form("native", "the compiled kernels are built, and agree with exact sums")
    warnings.warn(
        f"moopt does not use its compiled kernels: {told}. The form in plain PyTorch runs instead,"
        " which is slower; please report this.",
        RuntimeWarning,
        stacklevel=3,
    )
    return Form("reference", told)
