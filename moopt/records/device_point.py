"""DevicePoint: which point of the gradients' Gramian a method asks for, as a kernel knows it."""

import enum


class DevicePoint(enum.IntEnum):
    """What a step without readback can solve for, on the device where the gradients lie.

    Example:
        >>> from moopt.records.device_point import DevicePoint
        >>> from moopt.weightings import MGDA, PCGrad
        >>> MGDA(normalize="l2").device_point is DevicePoint.UNIT_HULL
        True
        >>> PCGrad().device_point is None
        True
    """

    HULL = 0
    """The shortest vector in the hull of the gradients."""
    UNIT_HULL = 1
    """The same of the unit gradients."""
    CONE_OF_EACH = 2
    """The preferred sum of the gradients, each projected onto their dual cone."""
    CONE_OF_SUM = 3
    """The projection of the preferred sum onto the dual cone."""
