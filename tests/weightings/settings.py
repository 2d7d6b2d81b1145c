"""What the conformance suite runs: the default of every registry row, and further settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moopt.testing import OneBatch
from moopt.weightings import (
    BLUR,
    CRMOGM,
    EPO,
    GRU,
    HAMU,
    MGDA,
    PCD,
    PMGDA,
    PMTL,
    WEIGHTINGS,
    AlignedMTL,
    CAGrad,
    Constant,
    DualProj,
    DualSpaceMGDA,
    FairGrad,
    Krum,
    Mean,
    MoDo,
    NashMTL,
    NGDiff,
    OrthogonalSteepestDescent,
    PCGrad,
    SDMGradStochastic,
    UPGrad,
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


def forget_retain(make: Callable[..., Weighting], **settings: object) -> Build:
    """Position 0 is to be forgotten, the rest retained; names go by the index in the step."""

    def build(positions: Sequence[int]) -> Weighting:
        # At least one name: a method refuses an empty role, and an absent objective does no harm.
        retain = [f"objective {i}" for i in range(1, max(len(positions), 2))]
        return make(forget="objective 0", retain=retain, **settings)

    return build


def prioritised(**settings: object) -> Build:
    """Position 0 is primary, the rest secondary; names go by the index in the step."""

    def build(positions: Sequence[int]) -> Weighting:
        secondary = [f"objective {i}" for i in range(1, max(len(positions), 2))]
        return PCD(primary="objective 0", secondary=secondary, **settings)  # type: ignore[arg-type]

    return build


def three_sectors(positions: Sequence[int]) -> Weighting:
    """Three preference vectors that differ at every position; the losses violate some sectors."""
    return PMTL(preferences=[[1.0 + (k * p + k) % 3 for p in positions] for k in range(3)])


# Methods that have settings without a default, or need rows beside the objectives'.
REQUIRED: dict[str, Build] = {
    "Constant": constant,
    "MoDo": fixed(OneBatch(MoDo(), normalize=True)),
    "SDMGradStochastic": fixed(OneBatch(SDMGradStochastic(), normalize=True)),
    "PMTL": three_sectors,
    "NGDiff": forget_retain(NGDiff),
    "GRU": forget_retain(GRU),
    "BLUR": forget_retain(BLUR),
    "HAMU": forget_retain(HAMU),
    "PCD": prioritised(),
    "OrthogonalSteepestDescent": forget_retain(OrthogonalSteepestDescent),
}

DEFAULTS: dict[str, Build] = {
    name: REQUIRED[name] if name in REQUIRED else fixed(row.build())
    for name, row in WEIGHTINGS.items()
}

FURTHER: dict[str, Build] = {
    "CAGrad wide": fixed(CAGrad(c=1.5, rescale="linear")),
    "CAGrad as the mean": fixed(CAGrad(c=0.0, rescale="square")),
    "NashMTL unit": fixed(NashMTL(max_norm=1.0)),
    "FairGrad as Nash": fixed(FairGrad(alpha=1.0)),
    "DualProj with a preference": lambda at: DualProj(preference=[1.0 + 0.5 * i for i in at]),
    "UPGrad with a preference": lambda at: UPGrad(preference=[1.0 + 0.5 * i for i in at]),
    "EPO with a preference": lambda at: EPO(preference=[1.0 + 0.5 * i for i in at]),
    "EPO descent": fixed(EPO(eps=10.0)),
    "PMGDA with a preference": lambda at: PMGDA(preference=[1.0 + 0.5 * i for i in at]),
    "MoDo in large steps": fixed(OneBatch(MoDo(step_size=3.0), normalize=True)),
    "SDMGradStochastic preferred": lambda at: OneBatch(
        SDMGradStochastic(step_size=0.3, preference=[1.0 + 0.5 * i for i in at]), normalize=True
    ),
    "PCD tau 0": prioritised(tau=0.0, beta=0.0),
    "GRU clip": forget_retain(GRU, cosine_clip=-0.5),
    "HAMU absolute": forget_retain(HAMU, relative=False, stop=False),
    "BLUR at least": forget_retain(BLUR, gamma=0.5, at_least=True),
    "PCGrad given": fixed(PCGrad(order="given")),
    "AlignedMTL median": fixed(AlignedMTL(scale_mode="median")),
    "AlignedMTL rmse": fixed(AlignedMTL(scale_mode="rmse")),
    "Krum multi": fixed(Krum(num_selected=2)),
    "AlignedMTL with a preference": lambda at: AlignedMTL(preference=[1.0 + 0.5 * i for i in at]),
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

# One objective in each role, as in most papers: they promise more, and fit steps of two only.
PAIRS: dict[str, Build] = {
    "GRU": forget_retain(GRU),
    "GRU clip": forget_retain(GRU, cosine_clip=-0.5),
    "BLUR": forget_retain(BLUR),
    "BLUR at least": forget_retain(BLUR, gamma=0.5, at_least=True),
    "HAMU": forget_retain(HAMU),
    "HAMU absolute": forget_retain(HAMU, relative=False, stop=False),
    "NGDiff": forget_retain(NGDiff),
    "OrthogonalSteepestDescent": forget_retain(OrthogonalSteepestDescent),
    "PCD": prioritised(),
    "PCD tau 0": prioritised(tau=0.0, beta=0.0),
}
