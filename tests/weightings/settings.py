"""What the conformance suite runs: the default of every registry row, and further settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moopt.weightings import (
    CRMOGM,
    MGDA,
    WEIGHTINGS,
    Constant,
    DualSpaceMGDA,
    Mean,
    PCGrad,
    Weighting,
)

# Objective positions -> weighting; positions matter to a weighting that holds one number each.
Build = Callable[[Sequence[int]], Weighting]


def fixed(weighting: Weighting) -> Build:
    """The same weighting whatever the objectives are."""
    return lambda positions: weighting


def constant(positions: Sequence[int]) -> Weighting:
    """Weights 1, 1.5, 2, ... by position."""
    return Constant([1.0 + 0.5 * position for position in positions])


DEFAULTS: dict[str, Build] = {
    name: constant if row.required else fixed(row.build()) for name, row in WEIGHTINGS.items()
}

FURTHER: dict[str, Build] = {
    "PCGrad given": fixed(PCGrad(order="given")),
    "MGDA l2": fixed(MGDA(normalize="l2")),
    "MGDA loss": fixed(MGDA(normalize="loss")),
    "MGDA loss+": fixed(MGDA(normalize="loss+")),
    "MGDA active_set": fixed(MGDA(solver="active_set")),
    "CRMOGM of DualSpaceMGDA": fixed(CRMOGM(DualSpaceMGDA())),
    "CRMOGM of CRMOGM of Mean": fixed(CRMOGM(CRMOGM(Mean(), momentum=0.5))),
    "CRMOGM without momentum": fixed(CRMOGM(MGDA(), momentum=0.0)),
    **{
        f"DualSpaceMGDA {variant} {length}": fixed(DualSpaceMGDA(variant=variant, length=length))
        for variant in ("dual_basis", "unit_dual", "projected")
        for length in ("mean_gradient", "keep")
    },
}

SETTINGS = DEFAULTS | FURTHER
