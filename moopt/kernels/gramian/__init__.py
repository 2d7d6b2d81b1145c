"""The m x m Gramian of m rows of gradients."""

from moopt.kernels.gramian.reference import gramian, measured_gramian

__all__ = ["gramian", "measured_gramian"]
