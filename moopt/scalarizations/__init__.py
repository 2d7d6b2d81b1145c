"""Scalarizations: one number made of the losses, so that one backward pass is enough."""

from moopt.scalarizations.augmented_tchebycheff import AugmentedTchebycheff, augmented_tchebycheff
from moopt.scalarizations.base import Scalarization
from moopt.scalarizations.cosmos import COSMOS, cosmos
from moopt.scalarizations.dwa import DWA, dwa
from moopt.scalarizations.eupmu import EUPMU
from moopt.scalarizations.famo import FAMO, famo
from moopt.scalarizations.gls import GLS, gls
from moopt.scalarizations.imtl_l import IMTLL, imtl_l
from moopt.scalarizations.pbi import PBI, pbi
from moopt.scalarizations.pdu import PDU
from moopt.scalarizations.registry import SCALARIZATIONS
from moopt.scalarizations.rlw import RLW, rlw
from moopt.scalarizations.stch import STCH, stch
from moopt.scalarizations.uw import UW, uw

__all__ = [
    "COSMOS",
    "DWA",
    "EUPMU",
    "FAMO",
    "GLS",
    "IMTLL",
    "PBI",
    "PDU",
    "RLW",
    "SCALARIZATIONS",
    "STCH",
    "UW",
    "AugmentedTchebycheff",
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
