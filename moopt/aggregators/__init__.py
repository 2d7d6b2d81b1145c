"""Gradient aggregators: methods that need the gradients themselves."""

# A line here makes a method public and registers it: see `moopt.weightings`.
# isort: off
from moopt.aggregators.trimmed_mean import TrimmedMean as TrimmedMean
from moopt.aggregators.grad_drop import GradDrop as GradDrop
from moopt.aggregators.sago import SAGO as SAGO
from moopt.aggregators.moco import MoCo as MoCo
from moopt.aggregators.gradient_ema import GradientEMA as GradientEMA
from moopt.aggregators.db_mtl_with_ema import DBMTLWithEMA as DBMTLWithEMA
from moopt.aggregators.excess_mtl import ExcessMTL as ExcessMTL
from moopt.aggregators.m_config import MConFIG as MConFIG

# isort: on
from moopt.aggregators.base import GradientAggregator
from moopt.aggregators.entrywise import EntrywiseAggregator
from moopt.aggregators.tracking import TrackingAggregator
from moopt.weightings.registry import registered

AGGREGATORS = registered("moopt.aggregators")
"""The registered gradient aggregators by name."""

__all__ = [
    *AGGREGATORS,
    "AGGREGATORS",
    "EntrywiseAggregator",
    "GradientAggregator",
    "TrackingAggregator",
]
