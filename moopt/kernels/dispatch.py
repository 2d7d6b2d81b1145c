"""dispatch: which form of the kernels runs on some rows, and why.

`MOOPT_REFERENCE_KERNELS=1`, set before `import moopt`, forces the reference form everywhere.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST_GATHERED = 1 << 18
"""Elements of all rows together up to which they become one float64 matrix (2 MiB)."""

REFERENCE_ONLY = os.environ.get("MOOPT_REFERENCE_KERNELS") == "1"


class Form(NamedTuple):
    """A form of the kernels.

    Attributes:
        name: "gathered", "native", "triton", or "reference", which is plain PyTorch.
        why: it is the one, in words.

    Example:
        >>> from moopt.kernels import Form
        >>> Form("reference", "triton is not installed").name
        'reference'
    """

    name: str
    why: str


GATHERED = Form("gathered", "the rows are small, real and in host memory")
FORCED = Form("reference", "MOOPT_REFERENCE_KERNELS=1")
ELSEWHERE = Form("reference", "the rows are not in host memory")
COMPLEX = Form("reference", "a gradient is complex")
LONG = Form("reference", f"the rows together exceed {LARGEST_GATHERED} elements")


@contextlib.contextmanager
def reference_only() -> Iterator[None]:
    """Force the form in plain PyTorch inside the block, in every thread of the process.

    Example:
        >>> from moopt.kernels import backends, reference_only
        >>> with reference_only():
        ...     print({form.name for form in backends().values()})
        {'reference'}
    """
    global REFERENCE_ONLY
    before, REFERENCE_ONLY = REFERENCE_ONLY, True
    try:
        yield
    finally:
        REFERENCE_ONLY = before


_is_cpu = attrgetter("is_cpu")


def form_of(tensors: Sequence[Tensor], m: int) -> Form:
    """The form for `m` rows with one of `tensors` at each position."""
    if REFERENCE_ONLY:
        return FORCED
    if m * sum(map(Tensor.numel, tensors)) > LARGEST_GATHERED:
        return LONG
    if not all(map(_is_cpu, tensors)):
        return ELSEWHERE
    if any(map(torch.is_complex, tensors)):
        return COMPLEX
    return GATHERED
