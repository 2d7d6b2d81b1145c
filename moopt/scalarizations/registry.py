"""SCALARIZATIONS: one row per method, as in the registry of weightings."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from moopt.scalarizations.augmented_tchebycheff import AugmentedTchebycheff
from moopt.scalarizations.cosmos import COSMOS
from moopt.scalarizations.dwa import DWA
from moopt.scalarizations.eupmu import EUPMU
from moopt.scalarizations.famo import FAMO
from moopt.scalarizations.gls import GLS
from moopt.scalarizations.imtl_l import IMTLL
from moopt.scalarizations.pbi import PBI
from moopt.scalarizations.pdu import PDU
from moopt.scalarizations.rlw import RLW
from moopt.scalarizations.stch import STCH
from moopt.scalarizations.uw import UW
from moopt.weightings import RegisteredWeighting
from moopt.weightings.registry import ROLES

SCALARIZATIONS: Mapping[str, RegisteredWeighting] = MappingProxyType(
    {
        row.name: row
        for row in (
            RegisteredWeighting(weighting_class=UW, year=2018),
            RegisteredWeighting(weighting_class=DWA, year=2019),
            RegisteredWeighting(weighting_class=GLS, year=2019),
            RegisteredWeighting(weighting_class=IMTLL, year=2021),
            RegisteredWeighting(weighting_class=RLW, year=2022),
            RegisteredWeighting(weighting_class=FAMO, year=2023),
            RegisteredWeighting(weighting_class=STCH, year=2024),
            RegisteredWeighting(weighting_class=AugmentedTchebycheff, year=1983),
            RegisteredWeighting(weighting_class=PBI, year=2007),
            RegisteredWeighting(weighting_class=COSMOS, year=2021),
            RegisteredWeighting(weighting_class=PDU, year=2025, required={**ROLES, "eps": 0.5}),
            RegisteredWeighting(weighting_class=EUPMU, year=2025, required={**ROLES, "lr": 0.01}),
        )
    }
)
"""The registered scalarizations by name."""
