"""Gradient aggregators: methods that need the gradients themselves, entry by entry."""

from moopt.aggregators.base import GradientAggregator
from moopt.aggregators.grad_drop import GradDrop
from moopt.aggregators.registry import AGGREGATORS
from moopt.aggregators.sago import SAGO
from moopt.aggregators.trimmed_mean import TrimmedMean

__all__ = [
    "AGGREGATORS",
    "SAGO",
    "GradDrop",
    "GradientAggregator",
    "TrimmedMean",
]
