"""GradientAggregator: the contract of methods that need the gradients themselves."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from moopt.weightings import Guarantee, Weighting

State = dict[str, Tensor]


class GradientAggregator(abc.ABC):
    """A map from m gradients to one direction that the Gramian of one step cannot express.

    Either because it works entry by entry (`EntrywiseAggregator`), or because it follows the
    gradients from step to step (`TrackingAggregator`). Subclasses are frozen keyword-only
    dataclasses. `CommonDescent` takes one in place of a weighting. Parameters that one objective
    alone reaches take that gradient, as always. The record measures `g_i . d` itself, so that
    `descent` and `raised` are known. None of them promises common descent.

    They never synchronise the device and never raise on numerical trouble: gradients that are not
    finite make the direction not finite.

    Class attributes:
        name: the registered name.
        source: authors, title, venue, year.

    Properties:
        guarantees: the promises under the configured hyper-parameters; see
            `moopt.weightings.Guarantee`.
        needs: which optional fields of a step must be present ("names", "losses").
        state_axes: for each key of the state, how many leading axes index objectives.

    Example:
        >>> from moopt.aggregators import AGGREGATORS, GradientAggregator
        >>> isinstance(AGGREGATORS["MoCo"].build(beta=0.3), GradientAggregator)
        True
    """

    name: ClassVar[str]
    source: ClassVar[str]
    observes: ClassVar[bool] = False
    combines_auxiliary: ClassVar[bool] = False

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """What holds for all gradients; common descent never does, it is measured instead."""
        return frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """The optional fields of a step that this configuration cannot do without."""
        return frozenset()

    @property
    def state_axes(self) -> Mapping[str, int]:
        """Leading objective axes of each entry of the state; empty for stateless methods."""
        return {}

    def initial_state(self, num_objectives: int, device: torch.device | None = None) -> State:
        """The state before the first step."""
        return {}


Method: TypeAlias = Weighting | GradientAggregator
"""What `CommonDescent` accepts."""
