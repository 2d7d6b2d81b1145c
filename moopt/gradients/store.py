"""GradientStore: one row of gradients per objective, as autograd handed them over."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from moopt.gradients.replicas import refuse_sharded
from moopt.kernels.combine import combine_
from moopt.kernels.gramian import gramian

Row = list[Tensor | None]


class GradientStore:
    """The objectives' gradients over a fixed list of parameters, none of them copied.

    A row is a list with one entry per parameter: the tensor autograd handed over, or None where
    the objective does not reach the parameter. Auxiliary rows enter the Gramian after the
    objectives' and decide nothing else.
    """

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self.rows: dict[str, Row] = {}
        self.auxiliary: dict[str, Row] = {}
        self._addresses: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self.rows) + len(self.auxiliary)

    def clear(self) -> None:
        """Drop every row."""
        self.rows.clear()
        self.auxiliary.clear()
        self._addresses.clear()
        self.parameters.clear()

    def take(self, name: str, parameters: Sequence[Tensor], *, auxiliary: bool = False) -> Row:
        """Remove and return the row of a name, to accumulate into; all None without one.

        Raises:
            RuntimeError: the parameters changed since the first row.
            ValueError: the name is that of an objective and of an auxiliary row.
        """
        if name in (self.rows if auxiliary else self.auxiliary):
            raise ValueError(
                f"{name!r} is both an objective and an auxiliary row. Give the auxiliary row a name"
                " of its own."
            )
        if not self.rows and not self.auxiliary:
            self.parameters[:] = parameters
        elif len(parameters) != len(self.parameters) or any(
            a is not b for a, b in zip(parameters, self.parameters, strict=True)
        ):
            raise RuntimeError(
                "the parameters changed between two objectives of one step; call"
                " optimizer.zero_grad() and record every objective again."
            )
        self._addresses.pop(name, None)
        row = (self.auxiliary if auxiliary else self.rows).get(name)
        return [None] * len(parameters) if row is None else row

    def add(self, name: str, row: Row, *, auxiliary: bool = False) -> None:
        """Store the row of `name`; the store takes the tensors over.

        Raises:
            RuntimeError: the row lies in memory that another row still uses.
            TypeError: a gradient is a sharded DTensor.
        """
        refuse_sharded(row)
        # Empty tensors and those of the meta device lie at address 0.
        addresses = {g.data_ptr() for g in row if g is not None} - {0}
        for other, used in self._addresses.items():
            if used & addresses:
                raise RuntimeError(
                    f"the gradients of {name!r} were written over those of {other!r}: a"
                    " wrapper reuses one gradient buffer between backward passes. Build"
                    " DistributedDataParallel with gradient_as_bucket_view=False."
                )
        self._addresses[name] = addresses
        (self.auxiliary if auxiliary else self.rows)[name] = row

    def is_empty(self) -> bool:
        """Whether no objective reached any parameter."""
        return all(gradient is None for row in self.rows.values() for gradient in row)

    def accumulation_eps(self) -> float:
        """Rounding of the combination: float32's for 16- and 32-bit gradients, else float64's."""
        wide = all(
            gradient is None or gradient.dtype in (torch.float64, torch.complex128)
            for row in (*self.rows.values(), *self.auxiliary.values())
            for gradient in row
        )
        return torch.finfo(torch.float64 if wide else torch.float32).eps

    def shared(self, chosen: Collection[int] | None) -> list[bool]:
        """Which positions enter the Gramian.

        Args:
            chosen: the `id`s of the shared parameters; None means those that at least two
                objectives reach, and with a single objective all of them.
        """
        if chosen is not None:
            return [id(p) in chosen for p in self.parameters]
        at_least = min(2, len(self.rows))
        rows = self.rows.values()
        return [
            sum(row[t] is not None for row in rows) >= at_least for t in range(len(self.parameters))
        ]

    def unweighted(self, shared: Sequence[bool]) -> int:
        """How many parameters have a gradient outside the Gramian."""
        rows = self.rows.values()
        return sum(
            not on and any(row[t] is not None for row in rows) for t, on in enumerate(shared)
        )

    def gramian(self, shared: Sequence[bool]) -> Tensor:
        """float64 `[m + k, m + k]`: inner products over the shared positions, auxiliary last."""
        rows = (*self.rows.values(), *self.auxiliary.values())
        return gramian([[g for g, on in zip(row, shared, strict=True) if on] for row in rows])

    def combine_(self, weights: Tensor, shared: Sequence[bool]) -> Row:
        """Weighted sum on shared positions, plain sum elsewhere; consumes the rows.

        Args:
            weights: float64 `[m]`, in the order of the objectives, or `[m + k]` with one for each
                auxiliary row, which takes part on shared positions.
            shared: one flag per parameter.

        Returns:
            The direction, one entry per parameter, in the memory of the first row that has one.
        """
        rows = list(self.rows.values())
        ones = torch.ones_like(weights[: len(rows)])
        everything = [*rows, *self.auxiliary.values()][: len(weights)]
        out: Row = [None] * len(self.parameters)
        for flag, used, factors in ((True, everything, weights), (False, rows, ones)):
            positions = [t for t, on in enumerate(shared) if on is flag]
            if not positions:
                continue
            direction = combine_([[row[t] for t in positions] for row in used], factors)
            for t, d in zip(positions, direction, strict=True):
                out[t] = d
        self.rows.clear()
        self.auxiliary.clear()
        self._addresses.clear()
        return out
