"""Cases from the families: a deterministic one, and products of settings."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from moopt.testing.families import FAMILIES, Stationarity

SCALES = (1.0, 1e-30, 1e30, 1e-8, 1e8)
NORM_RATIOS = (1.0, 1e2, 1e4, 1e8)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclasses.dataclass(frozen=True)
class Case:
    """A Jacobian with what is known about it.

    Attributes:
        name: family and settings, for messages.
        family: key of `FAMILIES`.
        jacobian: float64 `[m, d]`; its values are representable in `dtype`.
        stationarity: of the unrounded rows; with float64 it holds up to one rounding per entry,
            with a shorter dtype only up to that dtype's rounding.
        scale, norm_ratio, dtype: the settings. Row norms are spread log-uniformly over
            `scale * [norm_ratio^-1/2, norm_ratio^1/2]`, both ends attained for m > 1.

    Example:
        >>> from moopt.testing import case
        >>> case("opposite", 3).stationarity
        'weak'
    """

    name: str
    family: str
    jacobian: Tensor
    stationarity: Stationarity
    scale: float
    norm_ratio: float
    dtype: torch.dtype

    @property
    def m(self) -> int:
        """The number of rows."""
        return self.jacobian.shape[0]

    @property
    def gramian(self) -> Tensor:
        """float64 `[m, m]`, J J^T."""
        return self.jacobian @ self.jacobian.T

    @property
    def norms(self) -> Tensor:
        """float64 `[m]`, the row norms."""
        return self.jacobian.norm(dim=-1)

    def __repr__(self) -> str:
        return f"Case({self.name})"


def case(
    family: str,
    m: int,
    seed: int = 0,
    *,
    scale: float = 1.0,
    norm_ratio: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """One deterministic case; see `Case`.

    Args:
        family: a key of `moopt.testing.families.FAMILIES`, such as "conflicting" or "opposite".
        m: the number of rows, at least the family's smallest.
        seed: of the rows and of their norms.
        scale, norm_ratio, dtype: see `Case`.

    Raises:
        ValueError: fewer rows than the family needs.

    Example:
        >>> from moopt.testing import case
        >>> case("orthogonal", 2, scale=1e-3).gramian.shape
        torch.Size([2, 2])
    """
    sampler, stationarity, smallest_m = FAMILIES[family]
    if m < smallest_m:
        raise ValueError(f"family {family!r} needs m >= {smallest_m}; got {m}.")
    generator = torch.Generator().manual_seed(seed + 7919)
    exponents = torch.rand(m, generator=generator, dtype=torch.float64)
    if m > 1:
        exponents = (exponents - exponents.min()) / (exponents.max() - exponents.min())
    norms = scale * norm_ratio ** (exponents - 0.5)
    rows = (norms[:, None] * sampler(seed, m)).to(dtype).to(torch.float64)
    name = f"{family}, m={m}, seed={seed}, scale={scale:g}, norm_ratio={norm_ratio:g}, {dtype}"
    return Case(name, family, rows, stationarity, scale, norm_ratio, dtype)


def all_cases(
    ms: Sequence[int] = (1, 2, 3, 5, 10),
    seeds: Sequence[int] = (0,),
    scales: Sequence[float] = (1.0,),
    norm_ratios: Sequence[float] = (1.0,),
    families: Sequence[str] | None = None,
) -> Iterator[Case]:
    """The product of the settings, without families that need more than `m` rows.

    Args:
        ms, seeds, scales, norm_ratios: see `case`.
        families: names; None means all.

    Example:
        >>> from moopt.testing import all_cases
        >>> {case.m for case in all_cases(ms=(1, 2))}
        {1, 2}
    """
    names = FAMILIES if families is None else families
    for family, m, seed, scale, ratio in itertools.product(names, ms, seeds, scales, norm_ratios):
        if m >= FAMILIES[family].smallest_m:
            yield case(family, m, seed, scale=scale, norm_ratio=ratio)
