"""Modifies: the base of methods that change what another weighting sees, or says."""

from collections.abc import Mapping

from moopt.records.result import Solved, State
from moopt.weightings.base import StateEntry, Weighting
from moopt.weightings.cleared import Weighs
from moopt.weightings.problem import Problem

NESTED = "weighting."
"""What the keys of the modified weighting's state begin with."""


class Modifies(Weighs):
    """The base of methods with a `weighting` that they modify: its needs are theirs too.

    The modified weighting keeps its state under `NESTED`.

    Raises:
        TypeError: if `weighting` is not a weighting.
    """

    weighting: Weighting

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.weighting, Weighting):
            raise TypeError(
                f"`weighting` of `{self.name}` must be a moopt weighting; got {self.weighting!r}."
                " Pass an instance such as moopt.MGDA()."
            )

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | self.weighting.needs

    @property
    def reads_gradients(self) -> bool:  # type: ignore[override]
        return self.weighting.reads_gradients

    @property
    def sees_zero_gradients(self) -> bool:  # type: ignore[override]
        return self.weighting.sees_zero_gradients

    @property
    def stops_at_zero_gradients(self) -> bool:
        return self.weighting.stops_at_zero_gradients

    @property
    def nested_entries(self) -> Mapping[str, StateEntry]:
        """The `state_entries` of the modified weighting, under `NESTED`."""
        return {NESTED + key: entry for key, entry in self.weighting.state_entries.items()}

    def modified(self, problem: Problem, state: State) -> Solved:
        """What the modified weighting answers; the state is its own, under `NESTED`."""
        answer = self.weighting.weigh(problem, nested(state))
        solved = answer if isinstance(answer, Solved) else Solved(answer)
        return solved._replace(state=prefixed(solved.state or nested(state)))


def nested(state: State) -> State:
    """The modified weighting's part of a state, under its own keys."""
    return {k.removeprefix(NESTED): v for k, v in state.items() if k.startswith(NESTED)}


def prefixed(part: State) -> State:
    """The inverse of `nested`."""
    return {NESTED + key: value for key, value in part.items()}
