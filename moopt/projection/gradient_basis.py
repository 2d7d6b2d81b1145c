"""GradientBasis: the directions not to disturb, in a fixed amount of memory."""

from typing import Any

import torch
from torch import Tensor

from moopt.kernels.gramian import gramian
from moopt.kernels.pieces import pieces, positions
from moopt.projection.project_out import project_out, project_out_
from moopt.projection.structure import (
    G,
    Gradient,
    Row,
    aligned_rows,
    copied,
    fill_absent,
    overwrite_,
    row_of,
)
from moopt.projection.unit_gramian import unit_gramian
from moopt.solvers.principal_components import principal_components

# Elements of one row that are rotated together: `budget + 1` chunks of float32 at a time.
_CHUNK = 1 << 18


class GradientBasis:
    """A growing set of gradients to project out, merged into its budget when full.

    The first `budget` gradients are kept as they are. Each further one is merged: of the
    `budget + 1` rows A, the `budget` leading principal directions stay, `V' A` with `A A' = V S^2
    V'`, which of all subspaces of that dimension holds the most of the squared length of the rows.
    Projecting a gradient out of the basis leaves the null space of what is stored.

    Args:
        budget: how many gradients' worth of memory to use, >= 1.
        normalize: store unit gradients, so that every one counts alike whatever the scale of its
            loss; default True. False weighs them by their length.

    Raises:
        ValueError: if `budget` is below 1.

    Numerics: inner products in float64. Adding reads the stored gradients once while there is room
        and three times (writing once) when merging; memory is `budget` gradients and one chunk,
        never an n x n object. A gradient in the span of the
        others takes a place as well, until merging frees it. A gradient that holds NaN or infinity
        is stored as zero, so that it cannot spoil the others.

    Example:
        >>> import torch
        >>> from moopt.projection import GradientBasis
        >>> basis = GradientBasis(budget=2)
        >>> basis.add_(torch.tensor([2.0, 0.0, 0.0]))
        >>> basis.add_(torch.tensor([0.0, 3.0, 0.0]))
        >>> basis.project_out(torch.tensor([1.0, 1.0, 1.0])), len(basis)
        (tensor([0., 0., 1.]), 2)

    Source: G. Saha, I. Garg and K. Roy, "Gradient Projection Memory for Continual Learning" (GPM),
    ICLR 2021, for the null space of a stored basis; M. Farajtabar et al., "Orthogonal Gradient
    Descent for Continual Learning", AISTATS 2020, for a basis of gradients. We differ: GPM takes
    the leading singular vectors of each layer's *activations* and grows until an energy threshold;
    here the rows are gradients and the memory is fixed.
    """

    def __init__(self, budget: int, *, normalize: bool = True) -> None:
        if not isinstance(budget, int) or budget < 1:
            raise ValueError(
                f"`budget` of `GradientBasis` must be an int >= 1; got {budget!r}. It counts the"
                " gradients that are kept in memory."
            )
        self.budget = budget
        self.normalize = normalize
        self._gradients: list[Gradient] = []

    def __len__(self) -> int:
        """How many directions are stored."""
        return len(self._gradients)

    @property
    def num_bytes(self) -> int:
        """The memory that the stored gradients take."""
        rows = [row_of(gradient, "GradientBasis") for gradient in self._gradients]
        return sum(t.numel() * t.element_size() for row in rows for t in row if t is not None)

    @torch.no_grad()
    def add_(self, gradient: Gradient) -> None:
        """Store a copy of a gradient, merging where there is no room.

        Args:
            gradient: a tensor, a list of tensors or a dictionary of tensors, of the kind, shapes,
                dtypes and device of the stored ones; None is a zero gradient.

        Raises:
            TypeError, ValueError: if it does not match the stored gradients.
        """
        caller = "GradientBasis.add_"
        aligned_rows(gradient, self._gradients, caller)
        fresh = copied(gradient, caller)
        _clean_(row_of(fresh, caller), normalize=self.normalize)
        if len(self) < self.budget:
            self._gradients.append(fresh)
            return
        everything = [*self._gradients, fresh]
        for one in everything:
            fill_absent(one, aligned_rows(one, everything, caller), caller)
        rows = aligned_rows(everything[0], everything[1:], caller)
        _rotate_(rows, _leading(gramian(rows), self.budget))

    def project_out_(self, gradient: G) -> G:
        """Remove every stored direction from a gradient, in place; see `project_out_`."""
        return project_out_(gradient, *self._gradients)

    def project_out(self, gradient: G) -> G:
        """Return a gradient without the stored directions."""
        return project_out(gradient, *self._gradients)

    def state_dict(self) -> dict[str, Any]:
        """The stored gradients and the settings; the tensors are not copied."""
        stored = list(self._gradients)
        return {"budget": self.budget, "normalize": self.normalize, "gradients": stored}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the tensors are copied."""
        self.budget, self.normalize = state["budget"], state["normalize"]
        caller = "GradientBasis.load_state_dict"
        self._gradients = [copied(gradient, caller) for gradient in state["gradients"]]


def _clean_(row: Row, *, normalize: bool) -> None:
    """Divide a row by its norm; make it zero where that is not finite."""
    square = gramian([row]).reshape(1)
    finite = square.isfinite()
    if normalize:
        factor = torch.where(finite & (square > 0), square, 1.0).rsqrt()
        overwrite_([row], factor, "GradientBasis.add_")
    for entry in row:
        if entry is not None:
            entry.masked_fill_(~finite.reshape(()), 0.0)


def _leading(products: Tensor, count: int) -> Tensor:
    """float64 `[count, m]`: the combinations of m rows along their leading directions."""
    norms, cosines, present = unit_gramian(products)
    lengths = torch.where(present, norms, 0.0)
    largest = lengths.amax()
    relative = lengths / torch.where(largest > 0, largest, 1.0)
    _, vectors = principal_components(cosines.cpu().numpy(), relative.cpu().numpy())
    leading = torch.zeros(count, len(products), dtype=products.dtype)
    leading[: vectors.shape[1]] = torch.from_numpy(vectors[:, :count].T)
    return leading.to(products.device)


def _rotate_(rows: list[Row], matrix: Tensor) -> None:
    """Overwrite the first rows with `matrix @ rows`, chunk by chunk."""
    for position in positions(rows, caller="GradientBasis.add_"):
        for piece in pieces(position, _CHUNK):
            parts = [part for part in piece if part is not None]
            accumulated = torch.promote_types(parts[0].dtype, torch.float32)
            block = torch.stack([part.to(accumulated) for part in parts])
            mixed = torch.tensordot(matrix.to(accumulated), block, dims=1)
            for part, result in zip(parts, mixed, strict=False):
                part.copy_(result)
