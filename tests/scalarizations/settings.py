"""What the tests of scalarizations run: every registry row, and further settings."""

from __future__ import annotations

from moopt.scalarizations import (
    COSMOS,
    DWA,
    FAMO,
    IMTLL,
    PBI,
    RLW,
    SCALARIZATIONS,
    STCH,
    UW,
    AugmentedTchebycheff,
)
from tests.weightings.settings import Build, fixed


def by_position(make, **settings) -> Build:
    """A preference of 1, 1.5, 2, ... by position, and a reference point that is not in line."""

    def build(positions):
        vectors = {"preference": [1.0 + 0.5 * p for p in positions]}
        if make is not COSMOS:
            vectors["reference"] = [0.1 + 0.05 * (p * p % 3) + 3 * (p == 0) for p in positions]
        return make(**vectors, **settings)

    return build


DEFAULTS: dict[str, Build] = {name: fixed(row.build()) for name, row in SCALARIZATIONS.items()}

FURTHER: dict[str, Build] = {
    "STCH preferred": by_position(STCH, mu=1.0),
    "AugmentedTchebycheff preferred": by_position(AugmentedTchebycheff, rho=0.2),
    "PBI preferred": by_position(PBI, theta=0.5),
    "COSMOS preferred": by_position(COSMOS, penalty=5.0),
    "DWA every step": fixed(DWA(steps_per_epoch=1, temperature=0.5)),
    "FAMO bounded": lambda positions: FAMO(
        min_losses=[0.5 + 0.1 * position for position in positions], weight_decay=0.0
    ),
    "RLW another seed": fixed(RLW(seed=-5)),
    "UW fast": fixed(UW(lr=0.5)),
    "IMTLL fast": fixed(IMTLL(lr=0.1)),
}

SETTINGS = DEFAULTS | FURTHER
