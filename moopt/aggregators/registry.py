"""AGGREGATORS: one row per gradient aggregator, for names and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from moopt.aggregators.db_mtl_with_ema import DBMTLWithEMA
from moopt.aggregators.excess_mtl import ExcessMTL
from moopt.aggregators.grad_drop import GradDrop
from moopt.aggregators.gradient_ema import GradientEMA
from moopt.aggregators.m_config import MConFIG
from moopt.aggregators.moco import MoCo
from moopt.aggregators.sago import SAGO
from moopt.aggregators.trimmed_mean import TrimmedMean
from moopt.weightings import MGDA
from moopt.weightings.registry import ROLES, RegisteredWeighting

AGGREGATORS: Mapping[str, RegisteredWeighting] = MappingProxyType(
    {
        row.name: row
        for row in (
            RegisteredWeighting(weighting_class=TrimmedMean, year=2018),
            RegisteredWeighting(weighting_class=GradDrop, year=2020),
            RegisteredWeighting(weighting_class=SAGO, year=2026, required=ROLES),
            RegisteredWeighting(weighting_class=MoCo, year=2023),
            RegisteredWeighting(
                weighting_class=GradientEMA, year=2025, required={"weighting": MGDA()}
            ),
            RegisteredWeighting(weighting_class=DBMTLWithEMA, year=2023),
            RegisteredWeighting(weighting_class=ExcessMTL, year=2024),
            RegisteredWeighting(weighting_class=MConFIG, year=2025),
        )
    }
)
"""The registered gradient aggregators by name."""
