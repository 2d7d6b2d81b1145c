"""GradientStore: one row of gradients per objective, as autograd handed them over."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import compress
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moopt.gradients.capture import Row, foreign, own_
from moopt.gradients.replicas import check, has_replicas
from moopt.gradients.shards import is_sharded, refuse_sharded
from moopt.kernels.combine import combine_
from moopt.kernels.gathered import combine_gathered_, exists, first_of, gathered, inner_products
from moopt.kernels.gramian import measured_gramian

Array = np.ndarray[Any, np.dtype[np.float64]]

_grad = attrgetter("grad")
_dtype = attrgetter("dtype")
_WIDE = {torch.float64, torch.complex128}


class GradientStore:
    """The objectives' gradients over a fixed list of parameters.

    A row is a list with one entry per parameter: the tensor that autograd handed over, or None
    where the objective does not reach the parameter. Auxiliary rows enter the Gramian after the
    objectives' and decide nothing else.

    Attributes:
        parameters: those of the rows.
        rows: the row of each objective.
        auxiliary: the other rows.
        losses: the value of each objective, float64; None where none was given.
        noise: the rounding of the entries of the last Gramian, relative to the two norms.
    """

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self.rows: dict[str, Row] = {}
        self.auxiliary: dict[str, Row] = {}
        self.losses: dict[str, Tensor | None] = {}
        self.noise = 0.0
        self._missing: dict[str, list[int]] = {}  # by row: the positions without a gradient
        self._owners: dict[int, str] = {}  # by address: the row that lies there
        # The shared positions of small rows, between `gramian` and `write_direction_`.
        self._matrix: Tensor | None = None
        self._matrix_of: list[bool] = []

    def __len__(self) -> int:
        return len(self.rows) + len(self.auxiliary)

    def clear(self) -> None:
        """Drop every row and every loss."""
        self.parameters.clear()
        self.rows.clear()
        self.auxiliary.clear()
        self.losses.clear()
        self._missing.clear()
        self._owners.clear()
        self._matrix = None

    def drop(self, name: str) -> None:
        """Drop the row and the loss of one name."""
        self.rows.pop(name, None)
        self.auxiliary.pop(name, None)
        self.losses.pop(name, None)
        self._missing.pop(name, None)
        self._matrix = None
        self._release(name)

    @contextlib.contextmanager
    def recording(
        self, name: str, parameters: Sequence[Tensor], *, auxiliary: bool = False
    ) -> Iterator[None]:
        """Add what a backward pass inside the block leaves in `.grad` to the row of `name`.

        `.grad` is empty inside the block, or holds the row so far, so that the pass accumulates
        into it and a wrapper that synchronises only the last of several micro-batches reduces
        their sum. Afterwards it is what it was, whatever happened.

        Args:
            name: of the objective.
            parameters: the same ones for every row.
            auxiliary: the row is not that of an objective.

        Raises:
            RuntimeError: the parameters changed since the first row, or the gradients of another
                row were written over.
            TypeError: a gradient is sparse, a DTensor, or wraps other tensors.
            ValueError: the name is that of an objective and of an auxiliary row.
        """
        rows, others = self.rows, self.auxiliary
        if auxiliary:
            rows, others = others, rows
        if name in others:
            raise ValueError(
                f"{name!r} is both an objective and an auxiliary row. Give the auxiliary row a name"
                " of its own."
            )
        if not self.rows and not self.auxiliary:
            if is_sharded(parameters):
                refuse_sharded(parameters)
            self.parameters[:] = parameters
        elif len(parameters) != len(self.parameters) or not all(
            map(is_, parameters, self.parameters)
        ):
            raise RuntimeError(
                "the parameters changed between two objectives of one step; call"
                " optimizer.zero_grad() and record every objective again."
            )
        waiting: list[Tensor | None] = list(map(_grad, parameters))
        copies = foreign(waiting) if any(map(exists, waiting)) else []
        self._matrix = None
        so_far = rows.get(name)
        if so_far is not None:
            self._release(name)
        try:
            for t, parameter in enumerate(parameters):
                parameter.grad = None if so_far is None else so_far[t]
            yield
            row = list(map(_grad, parameters))
            self._missing[name] = own_(row, name, self._owners)
            rows[name] = row
        finally:
            for t, parameter in enumerate(parameters):
                parameter.grad = waiting[t]
            for gradient, values in copies:
                gradient.detach().copy_(values)

    def add_loss(self, name: str, value: Tensor | None) -> None:
        """Add to the value of an objective's loss; None adds nothing."""
        before = self.losses.get(name)
        if value is None:
            self.losses[name] = before
            return
        value = value.detach().double()
        self.losses[name] = value if before is None else before + value

    def reached(self, name: str) -> bool:
        """Whether the row of a name holds any gradient."""
        return len(self._missing[name]) < len(self.parameters)

    def is_empty(self) -> bool:
        """Whether no objective reached any parameter."""
        return not any(map(self.reached, self.rows))

    def accumulation_eps(self) -> float:
        """Rounding of the combination: float32's for 16- and 32-bit gradients, else float64's."""
        dtypes = set(map(_dtype, self.parameters))
        return torch.finfo(torch.float64 if dtypes <= _WIDE else torch.float32).eps

    def shared(self, chosen: Collection[int] | None) -> list[bool]:
        """Which positions enter the Gramian.

        Args:
            chosen: the `id`s of the shared parameters; None means those that at least two
                objectives reach, and with a single objective all of them.
        """
        if chosen is not None:
            return list(map(chosen.__contains__, map(id, self.parameters)))
        at_least = min(2, len(self.rows))
        return list(map(at_least.__le__, self._reach()))

    def unweighted(self, shared: Sequence[bool]) -> int:
        """How many parameters have a gradient outside the Gramian."""
        return sum(not on and count > 0 for on, count in zip(shared, self._reach(), strict=True))

    def _reach(self) -> list[int]:
        """How many objectives reach each parameter."""
        counts = [len(self.rows)] * len(self.parameters)
        for name in self.rows:
            for t in self._missing[name]:
                counts[t] -= 1
        return counts

    def gramian(self, shared: Sequence[bool]) -> Tensor:
        """float64 `[m + k, m + k]`: inner products over the shared positions, auxiliary last.

        Args:
            shared: one flag per parameter.
        """
        rows = [*self.rows.values(), *self.auxiliary.values()]
        if not all(shared):
            rows = [list(compress(row, shared)) for row in rows]
        self._matrix, self._matrix_of = gathered(rows), list(shared)
        if self._matrix is None:
            product, self.noise = measured_gramian(rows)
        else:
            product, self.noise = inner_products(self._matrix)
        return product

    def check_replicas(
        self, gramian: Tensor, shared: Sequence[bool], counter: Counter[tuple[str, ...]]
    ) -> None:
        """Raise where the replicas of a process group hold different rows.

        Args:
            gramian: of the shared positions.
            shared: one flag per parameter; of the others the norms are compared.
            counter: how often each set of names was combined; the caller keeps it.

        Raises:
            RuntimeError: in every process of the group, if any two disagree.
        """
        if has_replicas():
            names = (*self.rows, *self.auxiliary)
            check(gramian, names, counter, lambda: self._squares_outside(shared, gramian))

    def _squares_outside(self, shared: Sequence[bool], like: Tensor) -> Tensor:
        """float64 `[m + k]`: squared norms of the rows over the positions that are not shared."""
        squares = like.new_zeros(len(self))
        for i, row in enumerate((*self.rows.values(), *self.auxiliary.values())):
            for gradient, on in zip(row, shared, strict=True):
                if gradient is not None and not on:
                    wide = torch.promote_types(gradient.dtype, torch.float64)
                    norm = torch.linalg.vector_norm(gradient, dtype=wide)
                    squares[i] += norm.square().to(squares)
        return squares

    def write_direction_(
        self,
        weights: Sequence[float] | Array,
        shared: Sequence[bool],
        *,
        everywhere: bool = False,
    ) -> None:
        """Add the weighted sum on shared positions, the plain sum elsewhere, to `.grad`.

        The rows are consumed, and the store is empty afterwards.

        Args:
            weights: `[m]`, in the order of the objectives, or `[m + k]` with one for each
                auxiliary row, which takes part on shared positions.
            shared: one flag per parameter, those of the last Gramian.
            everywhere: the weights count on every position.
        """
        self._add_to_grad_(self._direction(weights, shared, everywhere))

    def write_given_direction_(
        self, direction: Sequence[Tensor | None], shared: Sequence[bool]
    ) -> None:
        """Add a direction on shared positions, the plain sum elsewhere, to `.grad`.

        As `write_direction_`, for methods whose direction is not a weighted sum of the rows.

        Args:
            direction: one entry per parameter; those of shared positions are used.
            shared: one flag per parameter.
        """
        out = list(direction)
        self._sum_at_([t for t, on in enumerate(shared) if not on], out)
        self._add_to_grad_(out)

    def _add_to_grad_(self, direction: Row) -> None:
        for parameter, gradient in zip(self.parameters, direction, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.add_(gradient)
        self.clear()

    def _sum_at_(self, positions: Sequence[int], out: Row) -> None:
        """Write the plain sum of the objectives' rows at some positions into `out`."""
        rows = list(self.rows.values())
        several = set()
        for t in positions:
            out[t] = None
        for row in rows:
            for t in positions:
                if out[t] is None:
                    out[t] = row[t]
                elif row[t] is not None:
                    several.add(t)
        _combine_at_(sorted(several), rows, [1.0] * len(rows), out)

    def _direction(
        self, weights: Sequence[float] | Array, shared: Sequence[bool], everywhere: bool
    ) -> Row:
        """One entry per parameter, in the memory of the first row that has one."""
        everyone = [*self.rows.values(), *self.auxiliary.values()]
        rows = everyone[: len(weights)]
        out = first_of(rows)
        if len(rows) == 1 and weights[0] == 1.0:
            return out
        positions: Sequence[int] = range(len(out))
        if self._matrix is not None and self._matrix_of == list(shared):
            columns = out if len(rows) == len(everyone) else first_of(everyone)
            combine_gathered_(self._matrix[: len(rows)], weights, list(compress(columns, shared)))
            positions = () if all(shared) else [t for t in positions if not shared[t]]
        if positions:
            weighted = [t for t in positions if everywhere or shared[t]]
            _combine_at_(weighted, rows, weights, out)
            if not everywhere:
                self._sum_at_([t for t in positions if not shared[t]], out)
        return out

    def combine_(self, weights: Tensor, shared: Sequence[bool]) -> Row:
        """The direction that `write_direction_` adds to `.grad`; consumes the rows."""
        self._matrix = None
        out = self._direction(weights.cpu().numpy(), shared, False)
        self.rows.clear()
        self.auxiliary.clear()
        self._missing.clear()
        self._owners.clear()
        return out

    def _release(self, name: str) -> None:
        """Forget where the row of a name lies."""
        self._owners = {at: owner for at, owner in self._owners.items() if owner != name}


def _combine_at_(
    positions: Sequence[int], rows: Sequence[Row], weights: Sequence[float] | Array, out: Row
) -> None:
    """Write the weighted sum of the rows at some positions into `out`."""
    if positions:
        chosen = [[row[t] for t in positions] for row in rows]
        direction = combine_(chosen, list(weights))
        for t, gradient in zip(positions, direction, strict=True):
            out[t] = gradient
