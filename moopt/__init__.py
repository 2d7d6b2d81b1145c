"""moopt: several losses, one PyTorch model, one step that serves them all."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from moopt.__version__ import __version__
from moopt.optim.common_descent import CommonDescent
from moopt.optim.functional import backward
from moopt.records.status import SolverStatus
from moopt.records.step_record import StepRecord
from moopt.records.step_statistics import StepStatistics
from moopt.settings.names import sample_name
from moopt.weightings import (
    CRMOGM,
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    Constant,
    DualProj,
    DualSpaceMGDA,
    FairGrad,
    Mean,
    NashMTL,
    PCGrad,
    Sum,
    UPGrad,
)

__all__ = [
    "CRMOGM",
    "IMTLG",
    "MGDA",
    "AlignedMTL",
    "CAGrad",
    "CommonDescent",
    "ConFIG",
    "Constant",
    "DualProj",
    "DualSpaceMGDA",
    "FairGrad",
    "Mean",
    "NashMTL",
    "PCGrad",
    "SolverStatus",
    "StepRecord",
    "StepStatistics",
    "Sum",
    "UPGrad",
    "__version__",
    "backward",
    "sample_name",
]

_PACKAGES = (
    "aggregators",
    "diagnostics",
    "kernels",
    "losses",
    "projection",
    "scalarizations",
    "solvers",
    "testing",
    "weightings",
)


if TYPE_CHECKING:
    from moopt import aggregators as aggregators
    from moopt import diagnostics as diagnostics
    from moopt import losses as losses
    from moopt import projection as projection
    from moopt import scalarizations as scalarizations
    from moopt import solvers as solvers
    from moopt import testing as testing
    from moopt import weightings as weightings
else:

    def __getattr__(name: str) -> ModuleType:
        """`moopt.diagnostics` and the others, imported where they are first used."""
        if name in _PACKAGES:
            return importlib.import_module(f"moopt.{name}")
        raise AttributeError(f"module 'moopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
