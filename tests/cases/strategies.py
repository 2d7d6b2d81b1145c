"""A hypothesis strategy of cases: shrinks towards m = 1 and scale 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from moopt.testing.families import FAMILIES
from moopt.testing.sampling import NORM_RATIOS, SCALES, Case, case


def cases(
    families: Sequence[str] | None = None,
    *,
    ms: Sequence[int] = (1, 2, 3, 5, 10),
    scales: Sequence[float] = SCALES,
    norm_ratios: Sequence[float] = NORM_RATIOS,
    dtypes: Sequence[torch.dtype] = (torch.float64,),
) -> st.SearchStrategy[Case]:
    """A hypothesis strategy of cases.

    Half-precision dtypes overflow or vanish at extreme scales: pass `scales=(1.0,)` with them.
    """
    names = tuple(FAMILIES if families is None else families)

    @st.composite
    def draw_case(draw: st.DrawFn) -> Case:
        m = draw(st.sampled_from(ms))
        family = draw(st.sampled_from([f for f in names if FAMILIES[f].smallest_m <= m]))
        return case(
            family,
            m,
            draw(st.integers(0, 2**16)),
            scale=draw(st.sampled_from(scales)),
            norm_ratio=draw(st.sampled_from(norm_ratios)),
            dtype=draw(st.sampled_from(dtypes)),
        )

    return draw_case()
