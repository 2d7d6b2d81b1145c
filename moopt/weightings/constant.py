"""Constant: fixed weights."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from moopt.settings.numbers import frozen_numbers
from moopt.settings.preference import Preference, names_needed
from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Weighting):
    """Keep the weights that the caller gives: `w_i = weights[i]`.

    For weights found by hand or by a search. A negative weight turns descent into ascent on that
    objective, as in gradient-difference unlearning. The weights stay as they are while an
    objective is inactive: they are not divided by what is left of their sum.

    Args:
        weights: finite numbers; a sequence in the order of the objectives, or a mapping from
            objective name to weight, which may name objectives that are absent from a step.

    Raises:
        TypeError: if an entry is not a number.
        ValueError: if there is no weight, or one is not finite; at the call, if an objective has
            no weight or the names are missing.

    Numerics: ignores the gradients.

    Example:
        >>> import torch, moopt
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.eye(2, dtype=torch.float64), names=("forget", "retain")
        ... )
        >>> moopt.Constant([1.0, 0.5])(statistics).weights.tolist()
        [1.0, 0.5]
        >>> moopt.Constant({"retain": 2.0, "forget": 1.0})(statistics).weights.tolist()
        [1.0, 2.0]

    Source: linear scalarization; no single origin.
    """

    weights: Preference = dataclasses.field(kw_only=False)

    example: ClassVar[Mapping[str, Any]] = {"weights": (1.0, 1.0, 1.0)}
    reads_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        frozen = frozen_numbers(self.weights, "`weights` of `Constant`")
        values = _values(frozen)
        if not values or not all(map(math.isfinite, values)):
            raise ValueError(
                f"`weights` of `Constant` must be finite and not empty; got {self.weights!r}. Pass"
                " one finite number per objective."
            )
        object.__setattr__(self, "weights", frozen)

    @property
    def has_negative(self) -> bool:
        """Whether a weight asks for ascent."""
        return min(_values(self.weights)) < 0.0

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def needs(self) -> frozenset[str]:
        return names_needed(self.weights)

    def weigh(self, problem: Problem, state: State) -> Array:
        """The given weights of the objectives that are present."""
        return problem.vector(self.weights, self.name, "weights")


def _values(weights: Preference) -> tuple[float, ...]:
    return tuple(weights.values() if isinstance(weights, Mapping) else weights)
