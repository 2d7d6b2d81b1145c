"""Problem: the active, non-zero, finite gradients of one step, which is all a method looks at."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moopt.records.result import Array, Solved
from moopt.settings.preference import Preference, numbers_in_order
from moopt.solvers.equilibrated import cosines_of
from moopt.solvers.min_norm import min_norm

EPS = float(np.finfo(np.float64).eps)

LOSS_FLOOR = 1e-12
"""Smallest |loss| that divides, relative to the largest: below it a loss has vanished."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What a method sees of one step, cleared of trouble: it may branch, loop and divide.

    Objectives that are inactive or absent are not in it, nor are those whose gradient is zero (but
    for methods with `sees_zero_gradients`), and every number is finite. Inner products are split
    into cosines and norms, so that no scale and no ratio of norms can spoil a formula.

    Attributes:
        cosines: float64 `[m, m]`, symmetric with unit diagonal, in [-1, 1]; 0 beside a zero row.
        norms: float64 `[m]`, `||g_i||`.
        losses: float64 `[m]`, unscaled; None unless the method needs them.
        names: of the m objectives; None where the caller has none.
        positions: int `[m]`, the place of each among all objectives of the step.
        num_objectives: how many objectives the step has, those left out included.
        num_active: how many of them are active, those with a zero gradient included.
        noise: the rounding of an inner product, relative to the norms of its two gradients.
        auxiliary: the names of further rows; empty unless the method needs them.
        wide: float64 `[m + k, m + k]`, inner products of the m gradients, then of the k auxiliary
            rows; None unless the method needs them.
        all_names: of every objective of the step, those left out included.
        lr: the learning rate, where it is known.
        step: how many steps were combined before this one, where it is known.

    Example:
        >>> import numpy as np
        >>> from moopt.weightings import Problem
        >>> problem = Problem.of(np.array([[4.0, -3.0], [-3.0, 9.0]]))
        >>> problem.cosines.tolist(), problem.norms.tolist()
        ([[1.0, -0.5], [-0.5, 1.0]], [2.0, 3.0])
    """

    cosines: Array
    norms: Array
    losses: Array | None = None
    names: tuple[str, ...] | None = None
    positions: NDArray[np.intp]
    num_objectives: int
    num_active: int
    noise: float = EPS
    auxiliary: tuple[str, ...] = ()
    wide: Array | None = None
    all_names: tuple[str, ...] | None = None
    lr: float | None = None
    step: int | None = None

    @classmethod
    def of(cls, gramian: Array, **known: object) -> Self:
        """The problem of a Gramian `[m, m]` that is clean already; `known` are further fields."""
        norms = np.sqrt(gramian.diagonal())
        m = len(norms)
        everything = {"positions": np.arange(m), "num_objectives": m, "num_active": m, **known}
        return cls(cosines=cosines_of(gramian, norms), norms=norms, **everything)  # type: ignore[arg-type]

    @property
    def m(self) -> int:
        """The number of objectives in the problem."""
        return len(self.norms)

    @property
    def share(self) -> float:
        """`1 / num_active`: the weight of each objective in the mean gradient."""
        return 1.0 / self.num_active

    @functools.cached_property
    def gramian(self) -> Array:
        """float64 `[m, m]`, the inner products; may overflow where `cosines` and `norms` do not."""
        return self.cosines * self.norms * self.norms[:, None]

    @functools.cached_property
    def unit_hull(self) -> Solved:
        """The minimum-norm point of the unit gradients, solved once however many ask for it."""
        return min_norm(self.cosines, np.ones(self.m))

    @functools.cached_property
    def loss_sizes(self) -> Array:
        """float64 `[m]`, `|loss_i|`, at least `LOSS_FLOOR` of the largest and 1 where all are 0."""
        assert self.losses is not None
        sizes = np.abs(self.losses)
        sizes = np.maximum(sizes, LOSS_FLOOR * sizes.max(initial=0.0))
        return np.where(sizes > 0.0, sizes, 1.0)

    def vector(self, given: Preference | None, owner: str, field: str = "preference") -> Array:
        """float64 `[m]`, the user's number for each objective; `share` for each without any.

        Args:
            given: as `moopt.settings.preference.checked_preference` returned it.
            owner: the class whose setting it is, for messages.
            field: the setting.

        Raises:
            ValueError: an objective has no entry, or the names are needed and missing.
        """
        if given is None:
            return np.full(self.m, self.share)
        names = self.all_names
        numbers = numbers_in_order(given, names, self.num_objectives, owner, field)
        return np.array(numbers)[self.positions]

    def shares(self, given: Preference | None, owner: str) -> Array:
        """`vector` divided by its sum; equal shares where no preferred objective is present."""
        u = self.vector(given, owner)
        total = u.sum()
        return u / total if total > 0.0 else np.full(self.m, 1.0 / max(self.m, 1))

    def members(self, roles: Mapping[str, Sequence[str]]) -> tuple[NDArray[np.intp], ...]:
        """For each role the places in this problem of its objectives; absent ones are left out."""
        places = {name: i for i, name in enumerate(self.names or ())}
        return tuple(
            np.array([places[name] for name in role if name in places], dtype=np.intp)
            for role in roles.values()
        )
