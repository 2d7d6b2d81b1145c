"""What the tests of scalarizations run: every registry row, and further settings."""

from __future__ import annotations

from moopt.scalarizations import (
    COSMOS,
    DWA,
    EUPMU,
    FAMO,
    IMTLL,
    PBI,
    PDU,
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


def forget_retain(make, **settings) -> Build:
    """The first objective is to be forgotten, the others retained; in the small models too."""

    def build(positions):
        retain = [f"objective {i}" for i in range(1, len(positions))]
        # Those of `OneOutput` and `TwoHeads`; an absent name does no harm.
        return make(
            forget=("objective 0", "a", "first"), retain=(*retain, "b", "c", "second"), **settings
        )

    return build


# Methods that have settings without a default.
REQUIRED: dict[str, Build] = {
    "PDU": forget_retain(PDU, eps=0.5),
    "EUPMU": forget_retain(EUPMU, lr=0.05, initial=5.0),
}

DEFAULTS: dict[str, Build] = {
    name: REQUIRED[name] if name in REQUIRED else fixed(row.build())
    for name, row in SCALARIZATIONS.items()
}

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
    "PDU slow": forget_retain(PDU, eps=2.0, step_size=0.1, initial=0.5),
    "EUPMU tolerant": forget_retain(EUPMU, lr=0.5, eps=0.2, step_size=2.0, initial=0.7),
}

SETTINGS = DEFAULTS | FURTHER
