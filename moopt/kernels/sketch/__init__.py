"""A random projection of m rows of gradients to a few numbers each."""

from moopt.kernels.sketch.reference import sketch

__all__ = ["sketch"]
