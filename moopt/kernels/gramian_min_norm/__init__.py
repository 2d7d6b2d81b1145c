"""A whole step's numbers on the device: Gramian, weights, certificate, with no word to the host."""

from moopt.kernels.gramian_min_norm.numbers import StepNumbers, kept_numbers, size_of, unpacked
from moopt.kernels.gramian_min_norm.operation import fused_step, gramian_min_norm
from moopt.kernels.gramian_min_norm.reference import weigh_reference
from moopt.records.device_point import DevicePoint

__all__ = [
    "DevicePoint",
    "StepNumbers",
    "fused_step",
    "gramian_min_norm",
    "kept_numbers",
    "size_of",
    "unpacked",
    "weigh_reference",
]
