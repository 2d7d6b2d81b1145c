"""SCALARIZATIONS: one row per method, as in the registry of weightings."""

from collections.abc import Mapping

from moopt.weightings.registry import RegisteredWeighting, registered

SCALARIZATIONS: Mapping[str, RegisteredWeighting] = registered("moopt.scalarizations")
"""The registered scalarizations by name."""
