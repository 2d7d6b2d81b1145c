"""PreferredScalarization: what scalarizations with a preference vector have in common."""

from __future__ import annotations

import abc
import dataclasses

from torch import Tensor

from moopt.scalarizations.base import Scalarization, State, derivative
from moopt.scalarizations.preference import Vector, frozen_vector, vector_in_order
from moopt.weightings import Guarantee


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferredScalarization(Scalarization):
    """`w_i = ds / dloss_i` for an `s` that depends on a preference, and perhaps a reference point.

    Vectors go by position or by objective name; by name, they may name absent objectives.
    """

    preference: Vector | None = None

    def __post_init__(self) -> None:
        for field, given in self._vectors().items():
            frozen = frozen_vector(given, self._named(field), preference=field == "preference")
            object.__setattr__(self, field, frozen)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        # A number that belongs to a position stays there when the objectives are permuted.
        positional = any(isinstance(given, tuple) for given in self._vectors().values())
        return frozenset() if positional else super().guarantees

    @property
    def needs(self) -> frozenset[str]:
        named = any(isinstance(given, dict) for given in self._vectors().values())
        return super().needs | ({"names"} if named else set())

    @abc.abstractmethod
    def _scalar(self, losses: Tensor, active: Tensor, **vectors: Tensor | None) -> Tensor:
        """s, `[...]`, differentiable in `losses`."""

    def _weigh(
        self, losses: Tensor, active: Tensor, state: State, names: tuple[str, ...] | None
    ) -> tuple[Tensor, State]:
        vectors = {
            field: vector_in_order(given, names, losses, self._named(field))
            for field, given in self._vectors().items()
        }
        return derivative(lambda values: self._scalar(values, active, **vectors), losses), {}

    def _vectors(self) -> dict[str, Vector | None]:
        fields = ("preference", "reference")
        return {field: getattr(self, field) for field in fields if hasattr(self, field)}

    def _named(self, field: str) -> str:
        return f"`{field}` of `{type(self).__name__}`"
