"""A step of SGD or Adam along the weighted sum of m rows, which is never written."""

from moopt.kernels.combine_update.reference import combine_update_
from moopt.kernels.updates import ADAM, SGD

__all__ = ["ADAM", "SGD", "combine_update_"]
