"""AGGREGATORS: the registered gradient aggregators by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from moopt.aggregators.base import GradientAggregator
from moopt.aggregators.grad_drop import GradDrop
from moopt.aggregators.sago import SAGO
from moopt.aggregators.trimmed_mean import TrimmedMean

AGGREGATORS: Mapping[str, type[GradientAggregator]] = MappingProxyType(
    {method.name: method for method in (TrimmedMean, GradDrop, SAGO)}
)
"""The gradient aggregators by name; they are passed as instances."""
