"""HoldingStore: rows whose weighted sum is left to the step, which never writes it."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.gradients.capture import Row
from moopt.gradients.store import GradientStore
from moopt.gradients.unwritten import Unwritten
from moopt.kernels.gathered import first_of
from moopt.records.result import Array


@dataclasses.dataclass(eq=False)
class Held:
    """A direction that was decided and not written.

    Attributes:
        store: the rows.
        weights: as `GradientStore.write_direction_` takes them.
        shared: one flag per parameter.
        everywhere: the weights count on every position.
        placed: what was left in `.grad` of each parameter; None where the direction has no entry.
        before: what lay there; it counts with weight one.
    """

    store: GradientStore
    weights: Sequence[float] | Array | Tensor
    shared: Sequence[bool]
    everywhere: bool
    placed: list[Unwritten | None] = dataclasses.field(default_factory=list)
    before: Row = dataclasses.field(default_factory=list)

    def place(self) -> None:
        """Leave something in `.grad` of every parameter at which the direction has an entry."""
        objectives = first_of([*self.store.rows.values()])
        chosen = first_of(self._rows())
        for t, parameter in enumerate(self.store.parameters):
            entry = chosen[t] if self.everywhere or self.shared[t] else objectives[t]
            self.before.append(parameter.grad)
            self.placed.append(None if entry is None else Unwritten(parameter))
            if entry is not None:
                parameter.grad = self.placed[t]

    def refuse_replaced(self) -> None:
        """Raise where `.grad` is neither the direction nor cleared.

        Raises:
            RuntimeError: somebody put another tensor there.
        """
        for t, (parameter, placed) in enumerate(
            zip(self.store.parameters, self.placed, strict=True)
        ):
            if placed is not None and not (parameter.grad is None or parameter.grad is placed):
                raise RuntimeError(
                    f"`.grad` of parameter {t} (shape {list(parameter.shape)}) was replaced between"
                    " backward and step(), which would ignore it with fused=True. Set gradients"
                    " with CommonDescent(..., fused=False)."
                )

    def write_(self) -> None:
        """Write the direction after all, into `.grad` wherever it still waits there."""
        cleared = []
        for parameter, placed, before in zip(
            list(self.store.parameters), self.placed, self.before, strict=True
        ):
            if placed is not None:
                cleared += [parameter] if parameter.grad is None else []
                parameter.grad = before
        self.store.write_direction_(self.weights, self.shared, everywhere=self.everywhere)
        for parameter in cleared:
            parameter.grad = None

    def terms(self) -> dict[int, tuple[bool, Row]]:
        """By `id` of the parameter: whether the weights count, and the rows.

        The last row is what lay in `.grad` before, with weight one. Without the weights the
        objectives' rows count once each.
        """
        rows, objectives = self._rows(), list(self.store.rows.values())
        found = {}
        for t, parameter in enumerate(self.store.parameters):
            if self.placed[t] is not None:
                weighted = self.everywhere or self.shared[t]
                column = [row[t] for row in (rows if weighted else objectives)]
                found[id(parameter)] = weighted, [*column, self.before[t]]
        return found

    def _rows(self) -> list[Row]:
        everyone = [*self.store.rows.values(), *self.store.auxiliary.values()]
        return everyone[: len(self.weights)]


class HoldingStore(GradientStore):
    """A store that holds the direction back for a step that makes it entry by entry.

    Attributes:
        held: the direction that waits for the step; None if none does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: Held | None = None

    def write_direction_(
        self,
        weights: Sequence[float] | Array | Tensor,
        shared: Sequence[bool],
        *,
        everywhere: bool = False,
    ) -> None:
        """Hold the direction back, and leave a tensor without values in `.grad`.

        A single row is its direction already, bit for bit, and lies where it lies.
        """
        if not isinstance(weights, Tensor) and len(weights) == 1 and weights[0] == 1.0:
            super().write_direction_(weights, shared, everywhere=everywhere)
            return
        kept = GradientStore()
        for name in vars(kept):
            setattr(kept, name, getattr(self, name))
        super().__init__()
        self.held = Held(kept, weights, list(shared), everywhere)
        self.held.place()

    def write_given_direction_(
        self, direction: Sequence[Tensor | None], shared: Sequence[bool]
    ) -> None:
        """Refuse a direction that is not a weighted sum of the rows.

        Raises:
            TypeError: always.
        """
        raise TypeError(NOT_WEIGHTED)


NOT_WEIGHTED = (
    "fused=True needs a direction that is a weighted sum of the gradients; got a gradient"
    " aggregator, which writes one of its own. Use a weighting, or CommonDescent(..., fused=False)."
)
"""Why a gradient aggregator is refused."""


def held_in(store: GradientStore) -> Held | None:
    """The direction that a store holds back; None if it holds none."""
    return store.held if isinstance(store, HoldingStore) else None


def forget(store: GradientStore) -> None:
    """Drop the direction that a store holds back, and clear `.grad` of it."""
    held = held_in(store)
    if held is not None:
        for parameter, placed in zip(held.store.parameters, held.placed, strict=True):
            if placed is not None and parameter.grad is placed:
                parameter.grad = None
        store.held = None  # type: ignore[attr-defined]


def clear_unwritten(parameters: Sequence[Tensor], *, set_to_none: bool) -> None:
    """Clear `.grad` where nothing was written, which torch's own `zero_grad` cannot zero."""
    for parameter in parameters:
        if isinstance(parameter.grad, Unwritten):
            parameter.grad = None if set_to_none else torch.zeros_like(parameter)


def has_direction(parameter: Tensor) -> bool:
    """Whether something lies in `.grad`, written or not, that nobody has cleared."""
    gradient = parameter.grad
    if gradient is None:
        return False
    return isinstance(gradient, Unwritten) or bool(gradient.any())


def refuse_used(parameters: Sequence[Tensor]) -> None:
    """Raise where a direction that was never written was used and not cleared.

    Raises:
        RuntimeError: torch would add to its values, or step along them again.
    """
    if any(isinstance(parameter.grad, Unwritten) for parameter in parameters):
        raise RuntimeError(
            "the direction in `.grad` was used by a step, and with fused=True has no values to add"
            " to or to use again. Call optimizer.zero_grad() before the next backward."
        )
