"""The weighted sum of m rows of gradients, written into the first row."""

from moopt.kernels.combine.reference import combine_

__all__ = ["combine_"]
