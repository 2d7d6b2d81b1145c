"""Scalarizations: one number made of the losses, so that one backward pass is enough."""

# A line here makes a method public and registers it: see `moopt.weightings`.
# isort: off
from moopt.scalarizations.uw import UW as UW, uw
from moopt.scalarizations.dwa import DWA as DWA, dwa
from moopt.scalarizations.gls import GLS as GLS, gls
from moopt.scalarizations.imtl_l import IMTLL as IMTLL, imtl_l
from moopt.scalarizations.rlw import RLW as RLW, rlw
from moopt.scalarizations.famo import FAMO as FAMO, famo
from moopt.scalarizations.stch import STCH as STCH, stch
from moopt.scalarizations.augmented_tchebycheff import (
    AugmentedTchebycheff as AugmentedTchebycheff,
    augmented_tchebycheff,
)
from moopt.scalarizations.pbi import PBI as PBI, pbi
from moopt.scalarizations.cosmos import COSMOS as COSMOS, cosmos
from moopt.scalarizations.pdu import PDU as PDU
from moopt.scalarizations.eupmu import EUPMU as EUPMU

# isort: on
from moopt.scalarizations.base import Scalarization
from moopt.weightings.registry import registered

SCALARIZATIONS = registered("moopt.scalarizations")
"""The registered scalarizations by name."""

__all__ = [
    *SCALARIZATIONS,
    "SCALARIZATIONS",
    "Scalarization",
    "augmented_tchebycheff",
    "cosmos",
    "dwa",
    "famo",
    "gls",
    "imtl_l",
    "pbi",
    "rlw",
    "stch",
    "uw",
]
