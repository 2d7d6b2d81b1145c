"""Bounds of every setting, on both sides, and the promises that depend on settings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from moopt.weightings import (
    BLUR,
    CRMOGM,
    GRU,
    HAMU,
    IMTLG,
    MGDA,
    PCD,
    PMTL,
    WEIGHTINGS,
    AlignedMTL,
    CAGrad,
    ConFIG,
    Constant,
    DualProj,
    DualSpaceMGDA,
    FairGrad,
    GradNorm,
    GradVac,
    Guarantee,
    Krum,
    Mean,
    MoDo,
    NashMTL,
    OrthogonalSteepestDescent,
    PCGrad,
    SDMGrad,
    SDMGradStochastic,
    UPGrad,
    Weighting,
)

ROLES: dict[str, Any] = {"forget": "a", "retain": "b"}
PRIORITY: dict[str, Any] = {"primary": "a", "secondary": "b"}
VECTORS: dict[str, Any] = {"preferences": [[1.0, 2.0], [2.0, 1.0]]}
NAN, INF = math.nan, math.inf
TOL: tuple[list[Any], list[Any]] = ([1e-300, 1.0 - 1e-16], [0.0, 1.0, 2.0, NAN, -1e-3])
RTOL: tuple[list[Any], list[Any]] = ([0.0, 1.0 - 1e-16], [1.0, 2.0, -1e-300, NAN])
MAX_ITER: tuple[list[Any], list[Any]] = ([None, 1], [0, -1])
LENGTH: tuple[list[Any], list[Any]] = ([0.0, 1e300], [-1e-300, INF, NAN])
POSITIVE: tuple[list[Any], list[Any]] = ([1e-300, 1e300], [0.0, -1.0, INF, NAN])
PREFERENCE: tuple[list[Any], list[Any]] = (
    [None, [0.0, 1e-300], {"a": 1.0}],
    [[0.0, 0.0], [-1e-300, 1.0], [NAN, 1.0], [INF, 1.0], [], "11"],
)

# (class, required settings, setting, (accepted, refused))
BOUNDS: list[tuple[type[Weighting], dict[str, Any], str, tuple[list[Any], list[Any]]]] = [
    *((c, {}, "tol", TOL) for c in (MGDA, CAGrad, DualProj, UPGrad, NashMTL, FairGrad, SDMGrad)),
    (PMTL, VECTORS, "tol", TOL),
    *((c, {}, "rtol", RTOL) for c in (AlignedMTL, ConFIG, IMTLG, DualSpaceMGDA)),
    (OrthogonalSteepestDescent, ROLES, "rtol", RTOL),
    *(
        (c, {}, "max_iter", MAX_ITER)
        for c in (MGDA, CAGrad, DualProj, UPGrad, NashMTL, FairGrad, SDMGrad)
    ),
    (PMTL, VECTORS, "max_iter", MAX_ITER),
    *((c, {}, "preference", PREFERENCE) for c in (AlignedMTL, DualProj, UPGrad, SDMGrad)),
    (CAGrad, {}, "c", LENGTH),
    (BLUR, ROLES, "gamma", LENGTH),
    (PMTL, VECTORS, "eps", LENGTH),
    (SDMGrad, {}, "regularization", LENGTH),
    (MoDo, {}, "regularization", LENGTH),
    (MoDo, {}, "step_size", POSITIVE),
    (SDMGradStochastic, {}, "regularization", LENGTH),
    (SDMGradStochastic, {}, "step_size", POSITIVE),
    (SDMGradStochastic, {}, "preference", PREFERENCE),
    (FairGrad, {}, "alpha", POSITIVE),
    (HAMU, ROLES, "radius", POSITIVE),
    (HAMU, ROLES, "quota", ([0.0, 1.0], [1.0 + 1e-15, -1e-300, NAN])),
    (HAMU, {**ROLES, "relative": False}, "quota", ([0.0, 1e300], [INF, -1e-300, NAN])),
    (NashMTL, {}, "max_norm", ([None, 1e-300, 1e300], [0.0, INF, NAN])),
    (CRMOGM, {}, "momentum", ([0.0, 1.0 - 1e-16], [1.0, -1e-300, NAN])),
    (GradVac, {}, "beta", ([0.0, 1.0], [1.0 + 1e-15, -1e-300, NAN])),
    (GradNorm, {}, "alpha", ([0.0, 1e300], [-1e-300, INF, NAN])),
    (GRU, ROLES, "cosine_clip", ([None, 0.0, -1.0], [1e-300, -1.0 - 1e-15, NAN])),
    (PCD, PRIORITY, "tau", ([0.0, 1.0], [1.0 + 1e-15, -1e-300, NAN])),
    (PCD, PRIORITY, "beta", ([0.0, 1.0 - 1e-16], [1.0, -1e-300, NAN])),
    (Krum, {}, "num_byzantine", ([0, 1], [-1, 0.5])),
    (Krum, {}, "num_selected", ([1, 2], [0, 1.5])),
    (PMTL, VECTORS, "index", ([0, 1], [-1, 2])),
    (MGDA, {}, "solver", (["auto", "pairwise"], ["simplex"])),
    (MGDA, {}, "normalize", (["none", "l2", "loss", "loss+"], ["l1"])),
    (DualSpaceMGDA, {}, "variant", (["dual_basis", "unit_dual", "projected"], ["dual"])),
    (DualSpaceMGDA, {}, "length", (["mean_gradient", "keep"], ["unit"])),
    (AlignedMTL, {}, "scale_mode", (["min", "median", "rmse"], ["max"])),
    (CAGrad, {}, "rescale", (["square", "linear", "none"], ["1", ""])),
    (PCGrad, {}, "order", (["random", "given"], ["reversed"])),
]


@pytest.mark.parametrize(
    ("kind", "required", "setting", "values"),
    BOUNDS,
    ids=[f"{kind.__name__}-{setting}-{len(r)}" for kind, r, setting, _ in BOUNDS],
)
def test_a_setting_is_accepted_up_to_its_bounds(
    kind: type[Weighting],
    required: dict[str, Any],
    setting: str,
    values: tuple[list[Any], list[Any]],
) -> None:
    accepted, refused = values
    for value in accepted:
        kind(**{**required, setting: value})
    for value in refused:
        with pytest.raises((ValueError, TypeError), match=f"`{setting}`.*`{kind.name}`"):
            kind(**{**required, setting: value})


N, N_INDEPENDENT, S, E, H, P, Z, D = (
    Guarantee.NON_CONFLICTING,
    Guarantee.NON_CONFLICTING_IF_INDEPENDENT,
    Guarantee.SIMPLEX,
    Guarantee.SCALE_EQUIVARIANT,
    Guarantee.POSITIVELY_HOMOGENEOUS,
    Guarantee.PERMUTATION_EQUIVARIANT,
    Guarantee.ZERO_AT_STATIONARITY,
    Guarantee.IDEMPOTENT,
)
SEVERAL = {"forget": "a", "retain": ("b", "c")}

# What the documentation of each setting says; that the promises hold is the conformance suite's.
PROMISES: list[tuple[Weighting, set[Guarantee]]] = [
    (BLUR(**ROLES, gamma=1.0), {H, D}),
    (BLUR(**ROLES, gamma=0.9), {H}),
    (BLUR(**SEVERAL, gamma=1.0), {H}),
    (CAGrad(c=0.0), {H, P, S, D}),
    (CAGrad(c=0.5, rescale="none"), {H, P}),
    (CAGrad(c=0.5, rescale="linear"), {H, P, D}),
    (CAGrad(c=1.0, rescale="none"), {H, P, N_INDEPENDENT}),
    (FairGrad(alpha=0.99), {P, Z}),
    (FairGrad(alpha=1.0), {P, Z, N, E}),
    (FairGrad(alpha=1.01), {P, Z, N}),
    (FairGrad(alpha=2.0), {P, Z, N}),
    (FairGrad(alpha=2.01), {P, Z}),
    (GRU(**ROLES), {H, E, D, N}),
    (GRU(**ROLES, cosine_clip=-0.5), {H, E, D}),
    (GRU(**SEVERAL), {H}),
    (HAMU(**ROLES, relative=False), set()),
    (HAMU(**ROLES, quota=1.0, radius=1.0), {H, E, D}),
    (HAMU(**ROLES, quota=1.0, radius=0.9), {H, E}),
    (HAMU(**ROLES, quota=0.9, radius=1.0), {H, E}),
    (HAMU(**SEVERAL, quota=1.0, radius=1.0), {H}),
    (OrthogonalSteepestDescent(**ROLES), {H, E, N_INDEPENDENT}),
    (OrthogonalSteepestDescent(**ROLES, drift="z"), {H, E}),
    (OrthogonalSteepestDescent(**SEVERAL), {H}),
    (PCD(**PRIORITY, tau=0.0), {H, E, D, N}),
    (PCD(**PRIORITY, tau=0.1), {H, E, D}),
    (PCD(primary="a", secondary=("b", "c"), tau=0.0), {H}),
    (NashMTL(), {N, E, P, Z}),
    (SDMGrad(), {S, H, D, P}),
    (SDMGrad(preference=[1.0, 2.0]), {S, H, D}),
    (PMTL(**VECTORS), {Z, H}),
    (MGDA(), {S, D, N, P, Z, H}),
    (MGDA(solver="pairwise"), {S, D}),
    (MGDA(normalize="l2"), {N, P, Z, E}),
    (MGDA(normalize="loss"), {N, P, Z, E}),
    (MGDA(normalize="loss+"), {N, P, Z}),
    (MGDA(normalize="l2", solver="pairwise"), set()),
    (CRMOGM(MGDA(), momentum=0.0), set(MGDA().guarantees)),
    (CRMOGM(MGDA()), {S, H, P, D}),
    (CRMOGM(DualSpaceMGDA()), {H, P}),
    (DualSpaceMGDA(variant="projected", length="keep"), {N_INDEPENDENT, P, H}),
    (DualSpaceMGDA(variant="unit_dual", length="keep"), {N_INDEPENDENT, P, E}),
    (DualSpaceMGDA(variant="dual_basis", length="mean_gradient"), {N_INDEPENDENT, P, E, H, D}),
    (AlignedMTL(), {H, P, D}),
    (AlignedMTL(preference=[1.0, 2.0]), {H}),
    (Krum(), {S, H, D}),
    (PCGrad(), {H}),
    (Constant([1.0]), {H}),
    (MoDo(), {S, D}),
    (SDMGradStochastic(), {S, D}),
    (Mean(), {S, H, P, D}),
]


@pytest.mark.parametrize(
    ("weighting", "promises"), PROMISES, ids=[repr(weighting)[:60] for weighting, _ in PROMISES]
)
def test_promises_follow_the_settings(weighting: Weighting, promises: set[Guarantee]) -> None:
    assert weighting.guarantees == promises
    assert weighting.claims_common_descent == bool(promises & {N, N_INDEPENDENT})


def test_needs_follow_the_settings() -> None:
    for kind in (AlignedMTL, DualProj, UPGrad, SDMGrad):
        assert kind().needs == kind(preference=[1.0]).needs == frozenset()
        assert kind(preference={"a": 1.0}).needs == {"names"}
    assert Constant({"a": 1.0}).needs == {"names"}
    assert Constant([1.0]).needs == frozenset()
    assert PMTL(**VECTORS).needs == {"losses"}
    assert MGDA(normalize="l2").needs == frozenset()
    assert MGDA(normalize="loss+").needs == {"losses"}
    assert CRMOGM(MGDA(normalize="loss")).needs == {"losses"}
    assert CRMOGM().observes is False
    assert OrthogonalSteepestDescent(**ROLES).needs == {"names"}
    assert OrthogonalSteepestDescent(**ROLES, drift="z").needs == {"names", "auxiliary"}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_year_is_that_of_the_source(name: str) -> None:
    row = WEIGHTINGS[name]
    if row.year is None:
        assert "20" not in row.source
    else:
        assert str(row.year) in row.source


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_counts_and_seeds_are_integers(name: str) -> None:
    row = WEIGHTINGS[name]
    fields = {field.name for field in dataclasses.fields(row.weighting_class)}
    for key in fields & {"max_iter", "seed"}:
        for wrong in (1.5, "1", float("nan")):
            with pytest.raises(TypeError, match=f"`{key}` of `{name}` must be an int"):
                row.build(**row.required, **{key: wrong})
