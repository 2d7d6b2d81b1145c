"""moopt: several losses, one PyTorch model, one step that serves them all."""

from moopt.__version__ import __version__
from moopt.common_descent import CommonDescent
from moopt.functional import backward
from moopt.record import StepRecord, StepStatistics
from moopt.status import SolverStatus
from moopt.weightings import CRMOGM, MGDA, Constant, DualSpaceMGDA, Mean, Sum

__all__ = [
    "CRMOGM",
    "MGDA",
    "CommonDescent",
    "Constant",
    "DualSpaceMGDA",
    "Mean",
    "SolverStatus",
    "StepRecord",
    "StepStatistics",
    "Sum",
    "__version__",
    "backward",
]
