"""Gradient aggregators: methods that need the gradients themselves."""

from moopt.aggregators.base import GradientAggregator
from moopt.aggregators.db_mtl_with_ema import DBMTLWithEMA
from moopt.aggregators.entrywise import EntrywiseAggregator
from moopt.aggregators.excess_mtl import ExcessMTL
from moopt.aggregators.grad_drop import GradDrop
from moopt.aggregators.gradient_ema import GradientEMA
from moopt.aggregators.m_config import MConFIG
from moopt.aggregators.moco import MoCo
from moopt.aggregators.registry import AGGREGATORS
from moopt.aggregators.sago import SAGO
from moopt.aggregators.tracking import TrackingAggregator
from moopt.aggregators.trimmed_mean import TrimmedMean

__all__ = [
    "AGGREGATORS",
    "SAGO",
    "DBMTLWithEMA",
    "EntrywiseAggregator",
    "ExcessMTL",
    "GradDrop",
    "GradientAggregator",
    "GradientEMA",
    "MConFIG",
    "MoCo",
    "TrackingAggregator",
    "TrimmedMean",
]
