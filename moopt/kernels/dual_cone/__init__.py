"""Projections onto the dual cone on a device: branch-free, without host synchronisation."""

from moopt.kernels.dual_cone.reference import dual_cone_reference

__all__ = ["dual_cone_reference"]
