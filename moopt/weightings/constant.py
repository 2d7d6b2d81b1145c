"""Constant: fixed weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.records.step_statistics import StepStatistics
from moopt.settings.numbers import frozen_numbers
from moopt.weightings.base import Guarantee, Weighting, WeightingOutput
from moopt.weightings.objective_rows import objective_rows, with_auxiliary_rows


def constant_weights(
    gramian: Tensor, weights: Sequence[float], *, active: Tensor | None = None
) -> Tensor:
    """Return the given weights on the active objectives and 0 elsewhere.

    Args:
        gramian: `[..., m, m]`; only its shape and device matter.
        weights: m finite numbers, in the order of the objectives.
        active: bool `[..., m]`; False rows get weight exactly 0. None means all active.

    Returns:
        float64 `[..., m]`.

    Raises:
        ValueError: if there are not exactly m weights.

    Example:
        >>> import torch
        >>> from moopt.weightings.constant import constant_weights
        >>> constant_weights(torch.eye(2), [1.0, 0.5]).tolist()
        [1.0, 0.5]
    """
    shape = gramian.shape[:-1]
    if len(weights) != shape[-1]:
        raise ValueError(
            f"`weights` of `Constant` must have one entry per objective; got {len(weights)} for"
            f" {shape[-1]} objectives. Pass a mapping from name to weight where they vary."
        )
    # Filling one scalar at a time needs no copy from the host, which would synchronise a device.
    values = torch.stack(
        [torch.full((), w, dtype=torch.float64, device=gramian.device) for w in weights]
    ).expand(shape)
    return values.clone() if active is None else values * active.to(device=gramian.device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Weighting):
    """Keep the weights that the caller gives: `w_i = weights[i]`.

    A negative weight turns descent into ascent on that objective, as in gradient-difference
    unlearning. Weights are not renormalised when an objective is inactive.

    Args:
        weights: finite numbers; a sequence in the order of the objectives, or a mapping from
            objective name to weight, which needs `StepStatistics.names` and may name objectives
            that are absent from a step.

    Raises:
        TypeError: if an entry is not a number.
        ValueError: if there is no weight, or one is not finite; at the call, if an objective has
            no weight or the names are missing.

    Numerics: ignores the Gramian's values. No synchronisation.

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

    weights: Sequence[float] | Mapping[str, float] = dataclasses.field(kw_only=False)

    name: ClassVar[str] = "Constant"
    source: ClassVar[str] = "Linear scalarization with given weights; no single origin"

    def __post_init__(self) -> None:
        given = self.weights
        frozen = frozen_numbers(given, "`weights` of `Constant`")
        values = tuple(frozen.values()) if isinstance(frozen, dict) else frozen
        if not values or not all(math.isfinite(value) for value in values):
            raise ValueError(
                f"`weights` of `Constant` must be finite and not empty; got {given!r}. Pass one"
                " finite number per objective."
            )
        object.__setattr__(self, "weights", frozen)

    @property
    def has_negative(self) -> bool:
        """Whether a weight asks for ascent."""
        entries = self.weights.values() if isinstance(self.weights, Mapping) else self.weights
        return any(value < 0 for value in entries)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.POSITIVELY_HOMOGENEOUS})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"names"}) if isinstance(self.weights, Mapping) else frozenset()

    def __call__(
        self, statistics: StepStatistics, state: dict[str, Tensor] | None = None
    ) -> WeightingOutput:
        gramian, active = objective_rows(statistics)
        values = self._in_order(statistics.names)
        weights = constant_weights(gramian, values, active=active)
        return WeightingOutput(with_auxiliary_rows(weights, statistics), {}, None)

    def _in_order(self, names: tuple[str, ...] | None) -> Sequence[float]:
        if not isinstance(self.weights, Mapping):
            return self.weights
        if names is None:
            raise ValueError(
                "`Constant` with named weights needs the objectives' names; got none. Pass the"
                " losses as a mapping, or the weights as a sequence."
            )
        missing = [name for name in names if name not in self.weights]
        if missing:
            raise ValueError(
                f"`weights` of `Constant` must name every objective; {missing} are missing from"
                f" {list(self.weights)}. Add a weight for each."
            )
        return [self.weights[name] for name in names]
