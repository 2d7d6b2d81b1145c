"""traced: whether a call is looked at rather than run, so that it must be one operator."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def is_traced(tensors: Iterable[Tensor | None]) -> bool:
    """Whether `torch.compile` is tracing, a dispatch mode is on, or the first tensor is a fake one.

    Args:
        tensors: what the call was given.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
        return True
    return isinstance(next((g for g in tensors if g is not None), None), FakeTensor)
