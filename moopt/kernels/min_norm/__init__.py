"""The minimum-norm point on a device: branch-free, without host synchronisation."""

from moopt.kernels.min_norm.reference import min_norm_reference

__all__ = ["min_norm_reference"]
