"""AGGREGATORS: one row per gradient aggregator, as in the registry of weightings."""

from collections.abc import Mapping

from moopt.weightings.registry import RegisteredWeighting, registered

AGGREGATORS: Mapping[str, RegisteredWeighting] = registered("moopt.aggregators")
"""The registered gradient aggregators by name."""
