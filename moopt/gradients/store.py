"""GradientStore: one row of gradients per objective, as autograd handed them over."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import compress
from operator import attrgetter

import torch
from torch import Tensor

from moopt.gradients.capture import Captured, Row
from moopt.gradients.replicas import any_process, check
from moopt.kernels.combine import combine_
from moopt.kernels.gathered import combine_gathered_, first_of, gathered, inner_products
from moopt.kernels.gramian import measured_gramian
from moopt.records.result import Array

_dtype = attrgetter("dtype")
_WIDE = {torch.float64, torch.complex128}


class GradientStore(Captured):
    """The objectives' gradients: rows in, their Gramian, and a direction out.

    Auxiliary rows enter the Gramian after the objectives' and influence nothing else.

    Attributes:
        noise: the rounding of the entries of the last Gramian, relative to the two norms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noise = 0.0
        self._matrix_of: list[bool] = []  # the shared positions of `matrix`

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

    def chosen(self, shared: Sequence[bool]) -> list[Row]:
        """All rows at the shared positions, auxiliary last."""
        rows = [*self.rows.values(), *self.auxiliary.values()]
        return rows if all(shared) else [list(compress(row, shared)) for row in rows]

    def gramian(self, shared: Sequence[bool]) -> Tensor:
        """float64 `[m + k, m + k]`: inner products over the shared positions, auxiliary last.

        Args:
            shared: one flag per parameter.
        """
        rows = self.chosen(shared)
        self.matrix, self._matrix_of = gathered(rows), list(shared)
        if self.matrix is None:
            product, self.noise = measured_gramian(rows)
        else:
            product, self.noise = inner_products(self.matrix)
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

    def leave_out_non_finite_(self, *, replicas: bool) -> tuple[str, ...]:
        """Drop every objective whose loss or gradient holds NaN or infinity; return their names.

        If all of them do, none is dropped, and the step counts as non-finite.

        Args:
            replicas: whether there is a group whose processes train one model: an objective that
                one process drops is dropped by all.
        """
        flags = []
        for name, row in self.rows.items():
            values = [torch.linalg.vector_norm(g) for g in row if g is not None]
            loss = self.losses.get(name)
            values += [] if loss is None else [loss]
            whole = torch.stack([v.detach().double().to(values[0].device) for v in values])
            flags.append(~whole.isfinite().all())
        overflowed = any_process(torch.stack(flags)) if replicas else torch.stack(flags)
        out = tuple(n for n, bad in zip(self.rows, overflowed.tolist(), strict=True) if bad)
        if len(out) == len(self.rows):
            return ()
        for name in out:
            self.drop(name)
        return out

    def write_direction_(
        self,
        weights: Sequence[float] | Array | Tensor,
        shared: Sequence[bool],
        *,
        everywhere: bool = False,
    ) -> None:
        """Add the weighted sum on shared positions, the plain sum elsewhere, to `.grad`.

        The rows are consumed, and the store is empty afterwards.

        Args:
            weights: `[m]`, in the order of the objectives, or `[m + k]` with one for each
                auxiliary row, which takes part on shared positions; float64 where the rows lie, if
                a tensor.
            shared: one flag per parameter, those of the last Gramian.
            everywhere: the weights count on every position.
        """
        everyone = [*self.rows.values(), *self.auxiliary.values()]
        rows = everyone[: len(weights)]
        # In the memory of the first row that has an entry.
        out = first_of(rows)
        positions: Sequence[int] = range(len(out))
        if len(rows) == 1 and not isinstance(weights, Tensor) and weights[0] == 1.0:
            positions = ()
        elif (
            self.matrix is not None
            and not isinstance(weights, Tensor)
            and self._matrix_of == list(shared)
        ):
            columns = out if len(rows) == len(everyone) else first_of(everyone)
            combine_gathered_(self.matrix[: len(rows)], weights, list(compress(columns, shared)))
            positions = () if all(shared) else [t for t in positions if not shared[t]]
        if positions:
            _combine_at_([t for t in positions if everywhere or shared[t]], rows, weights, out)
            if not (everywhere or all(shared)):
                self._sum_at_([t for t in positions if not shared[t]], out)
        self._add_to_grad_(out)

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
        first, reach = first_of(rows), self._reach()
        for t in positions:
            out[t] = first[t]
        _combine_at_([t for t in positions if reach[t] > 1], rows, [1.0] * len(rows), out)


def _combine_at_(
    positions: Sequence[int],
    rows: Sequence[Row],
    weights: Sequence[float] | Array | Tensor,
    out: Row,
) -> None:
    """Write the weighted sum of the rows at some positions into `out`."""
    if positions:
        chosen = [[row[t] for t in positions] for row in rows]
        direction = combine_(chosen, weights if isinstance(weights, Tensor) else list(weights))
        for t, gradient in zip(positions, direction, strict=True):
            out[t] = gradient
