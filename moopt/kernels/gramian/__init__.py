"""The m x m Gramian of m rows of gradients."""

from moopt.kernels.gramian.reference import gramian

__all__ = ["gramian"]
