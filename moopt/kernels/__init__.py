"""Operations on big tensors: one folder per operation, `reference.py` in plain PyTorch."""

from moopt.kernels import operators as operators  # torch.ops.moopt
from moopt.kernels.backends import backends
from moopt.kernels.dispatch import Form, reference_only

__all__ = ["Form", "backends", "reference_only"]
