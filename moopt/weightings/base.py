"""Weighting: the contract between the Gramian and the weights."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from moopt.records.result import SolverResult
from moopt.records.step_statistics import StepStatistics


class Guarantee(enum.Enum):
    """What a weighting promises for every Gramian; the conformance suite tests each claim.

    Rescaling an objective rescales its gradient and its loss alike. The columns are those of the
    tables in `docs/methods.md`.

    Example:
        >>> from moopt.weightings import MGDA, Guarantee
        >>> Guarantee.NON_CONFLICTING in MGDA().guarantees
        True
    """

    NON_CONFLICTING = "non-conflicting"
    """(G w)_i >= 0 for every active i, up to rounding; column *descent*, ✓."""
    NON_CONFLICTING_IF_INDEPENDENT = "non-conflicting for linearly independent gradients"
    """The same for every Gramian of linearly independent rows; other rows may break it, visibly;
    column *descent*, (✓)."""
    SIMPLEX = "simplex"
    """w >= 0 and sum(w) = 1 over the active objectives; column *simplex*."""
    SCALE_EQUIVARIANT = "scale-equivariant"
    """The direction does not turn when one objective is rescaled; column *any scale*."""
    POSITIVELY_HOMOGENEOUS = "positively homogeneous"
    """d(c J) = c d(J) for c > 0; column *homog.*"""
    PERMUTATION_EQUIVARIANT = "permutation-equivariant"
    """The order of the objectives does not change the direction; column *any order*."""
    ZERO_AT_STATIONARITY = "zero at stationarity"
    """d = 0 where zero is in the convex hull of the gradients; column *stops*."""
    IDEMPOTENT = "idempotent"
    """d = g where every gradient is the same g; implied by SIMPLEX; column *idemp.*"""


class WeightingOutput(NamedTuple):
    """What a weighting returns.

    Attributes:
        weights: float64 `[..., m]`; the direction is `sum_i weights[i] * gradient[i]`.
        state: the next state, a flat dict of tensors (empty for stateless methods).
        result: the solver's certificate, or None for methods without a solver.

    Example:
        >>> import torch, moopt
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> output = moopt.Mean()(moopt.StepStatistics(gramian=G), state=None)
        >>> output.weights.tolist(), output.state, output.result
        ([0.5, 0.5], {}, None)
    """

    weights: Tensor
    state: dict[str, Tensor]
    result: SolverResult | None


class Weighting(abc.ABC):
    """A map from `StepStatistics` to weights: `(statistics, state) -> WeightingOutput`.

    Subclasses are frozen keyword-only dataclasses whose fields are the hyper-parameters.
    They never see a parameter, never synchronise the device, and never raise on numerical
    trouble. Objectives with `statistics.active == False` get weight exactly 0 and have no
    influence on the others.

    Class attributes:
        name: the registered name.
        source: authors, title, venue, year.

    Properties:
        guarantees: the promises under the configured hyper-parameters; see `Guarantee`.
        needs: which optional fields of `StepStatistics` must be present ("losses", "names",
            "auxiliary").
        combines_auxiliary: whether auxiliary rows take part in the direction.
        state_axes: for each key of the state, how many leading axes index objectives
            (0: shared by all, 1: one entry each, 2: one per pair). The optimizer uses it to
            keep state by objective name while objectives come and go.
        observes: whether it learns from the losses after the update; see `observe`.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> moopt.MGDA()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.8, 0.2]
    """

    name: ClassVar[str]
    source: ClassVar[str]

    @property
    @abc.abstractmethod
    def guarantees(self) -> frozenset[Guarantee]:
        """The promises that hold under the configured hyper-parameters."""

    @property
    def needs(self) -> frozenset[str]:
        """The optional fields of `StepStatistics` that this configuration cannot do without."""
        return frozenset()

    @property
    def combines_auxiliary(self) -> bool:
        """Whether auxiliary rows get weights other than 0: the direction is then theirs too."""
        return False

    @property
    def state_axes(self) -> Mapping[str, int]:
        """Leading objective axes of each entry of the state; empty for stateless methods."""
        return {}

    @property
    def claims_common_descent(self) -> bool:
        """Whether a step that fails the descent check breaks a promise, and must be replaced."""
        return bool(
            self.guarantees & {Guarantee.NON_CONFLICTING, Guarantee.NON_CONFLICTING_IF_INDEPENDENT}
        )

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """The state before the first step: a flat dict of tensors; empty for stateless methods."""
        return {}

    @abc.abstractmethod
    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        """Return the weights for one step; `state=None` means `initial_state`."""

    @property
    def observes(self) -> bool:
        """Whether the method learns from the losses after the update, by `observe`."""
        return False

    def observe(
        self,
        state: dict[str, Tensor],
        losses_after: Tensor,
        *,
        names: tuple[str, ...] | None = None,
    ) -> dict[str, Tensor]:
        """The next state, given the losses of the same batch after the update.

        Args:
            state: as the last call returned it, aligned with `losses_after`.
            losses_after: float64 `[m]`, unscaled.
            names: the `m` objective names.

        Raises:
            TypeError: the method does not learn from them (`observes` is False).
        """
        raise TypeError(
            f"{type(self).__name__} does not look at the losses after the update; leave"
            " observe(...) out, or use a method that does, such as FAMO."
        )
