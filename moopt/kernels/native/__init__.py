"""The Gramian and the combination of long rows in host memory, compiled from C++ if wanted."""

from moopt.kernels.native.form import native_form
from moopt.kernels.native.operations import (
    combine_native_,
    combine_update_native_,
    gramian_native,
    min_norm_native,
)

__all__ = [
    "combine_native_",
    "combine_update_native_",
    "gramian_native",
    "min_norm_native",
    "native_form",
]
