"""Constant: fixed weights."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from moopt.settings.fields import checked_by
from moopt.settings.numbers import frozen_numbers
from moopt.settings.preference import Preference, entries
from moopt.weightings.base import Array, Guarantee, Problem, State, Weighting


def _finite(weights: Preference, owner: str, name: str) -> Preference:
    frozen = frozen_numbers(weights, f"`{name}` of `{owner}`")
    values = entries(frozen)
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(
            f"`{name}` of `{owner}` must be finite and not empty; got {weights!r}. Pass one finite"
            " number per objective."
        )
    return frozen


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

    weights: Preference = dataclasses.field(kw_only=False, metadata=checked_by(_finite))

    example: ClassVar[Mapping[str, Any]] = {"weights": (1.0, 1.0, 1.0)}
    reads_gradients: ClassVar[bool] = False

    guarantees = frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def has_negative(self) -> bool:
        """Whether a weight asks for ascent."""
        return min(entries(self.weights)) < 0.0

    def weigh(self, problem: Problem, state: State) -> Array:
        """The given weights of the objectives that are present."""
        return problem.vector(self.weights, self.name, "weights")
