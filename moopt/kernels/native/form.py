"""form: whether the compiled kernels run, and if not, why."""

import ctypes
import functools
import warnings

from moopt.kernels import dispatch
from moopt.kernels.dispatch import FORCED, Form
from moopt.kernels.native.library import library
from moopt.kernels.native.operations import probe


def native_form() -> Form:
    """The form of long rows in host memory: "native", or "reference" and why.

    A library is used once it has given what exact sums give; if it does not, a warning says so.
    """
    return FORCED if dispatch.REFERENCE_ONLY else _checked(*library())


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
