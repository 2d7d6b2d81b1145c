"""callers: who called, for warnings at the user's line and errors at a scaler's."""

import sys
import warnings

_BETWEEN = frozenset({"moopt", "torch", "contextlib"})
"""Packages whose lines are not the user's: schedulers, scalers and optimizers call `step` too."""


def called_by(module: str) -> bool:
    """Whether a function of a module is among the callers."""
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame.f_globals.get("__name__") == module


def warn(message: str) -> None:
    """Warn at the line of the user, who may have called through torch."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
