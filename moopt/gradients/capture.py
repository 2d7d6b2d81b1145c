"""Captured: what backward passes left in `.grad`, as rows that own their memory."""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from operator import attrgetter, is_

import torch
from torch import Tensor

from moopt.gradients.shards import refuse_sharded, refuse_unsupported
from moopt.kernels.gathered import exists

Row = list[Tensor | None]
"""One entry per parameter: a gradient, or None where the objective does not reach it."""

_GRAD = attrgetter("grad")
_PLAIN = {Tensor, torch.nn.Parameter}

# A tensor and the Python object of its storage: whoever else holds the memory may write to it.
_ALONE = 2
_holders = torch._C._storage_Use_Count


class Captured:
    """The rows of a step, as backward passes leave them over a fixed list of parameters.

    A row is a list with one entry per parameter: the tensor that autograd handed over, or None
    where the objective does not reach the parameter.

    Attributes:
        parameters: those of the rows.
        rows: the row of each objective.
        auxiliary: the other rows.
        losses: the value of each objective, float64; None where none was given.
        matrix: the rows as one matrix, where a kernel made one; None as soon as a row changes.
        arrived: whether the last block left any gradient.
    """

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self.rows: dict[str, Row] = {}
        self.auxiliary: dict[str, Row] = {}
        self.losses: dict[str, Tensor | None] = {}
        self.matrix: Tensor | None = None
        self.arrived = False
        self._missing: dict[str, list[int]] = {}  # by row: the positions without a gradient
        self._owners: dict[int, str] = {}  # by address: the row that lies there

    def __len__(self) -> int:
        return len(self.rows) + len(self.auxiliary)

    def clear(self) -> None:
        """Drop every row and every loss."""
        self.parameters.clear()
        for kept in (self.rows, self.auxiliary, self.losses, self._missing, self._owners):
            kept.clear()
        self.matrix = None

    def drop(self, name: str) -> None:
        """Drop the row and the loss of one name."""
        for kept in (self.rows, self.auxiliary, self.losses, self._missing):
            kept.pop(name, None)
        self.matrix = None
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
        with self.set_aside(parameters):
            so_far = self.begin(name, auxiliary=auxiliary)
            yield
            self.end(name, so_far, auxiliary=auxiliary)

    @contextlib.contextmanager
    def set_aside(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Keep what lies in `.grad` out of the way, for `begin` and `end` of several rows.

        Raises as `recording` does for its parameters.
        """
        if not self.rows and not self.auxiliary:
            if not set(map(type, parameters)) <= _PLAIN:
                refuse_sharded(parameters)
            self.parameters[:] = parameters
        elif len(parameters) != len(self.parameters) or not all(
            map(is_, parameters, self.parameters)
        ):
            raise RuntimeError(
                "the parameters changed between two objectives of one step; call"
                " optimizer.zero_grad() and record every objective again."
            )
        waiting: list[Tensor | None] = list(map(_GRAD, parameters))
        copies = foreign(waiting) if any(map(exists, waiting)) else []
        self.matrix = None
        try:
            yield
        finally:
            for t, parameter in enumerate(parameters):
                parameter.grad = waiting[t]
            for gradient, values in copies:
                gradient.detach().copy_(values)

    def begin(self, name: str, *, auxiliary: bool = False) -> list[tuple[int, int]] | None:
        """Empty `.grad`, or put the row so far there, and return what `end` asks for."""
        rows, others = (self.auxiliary, self.rows) if auxiliary else (self.rows, self.auxiliary)
        if name in others:
            raise ValueError(
                f"{name!r} is both an objective and an auxiliary row. Give the auxiliary row a name"
                " of its own."
            )
        so_far = rows.get(name)
        if so_far is None:
            for parameter in self.parameters:
                parameter.grad = None
            return None
        self._release(name)
        for parameter, gradient in zip(self.parameters, so_far, strict=True):
            parameter.grad = gradient
        return list(map(_version, so_far))

    def end(
        self, name: str, before: list[tuple[int, int]] | None, *, auxiliary: bool = False
    ) -> None:
        """Take what a pass left in `.grad` as the row of `name`; `before` is `begin`'s answer."""
        row = list(map(_GRAD, self.parameters))
        changed = before is not None and before != list(map(_version, row))
        self._missing[name] = own_(row, name, self._owners)
        (self.auxiliary if auxiliary else self.rows)[name] = row
        self.arrived = changed if before is not None else self.reached(name)

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

    def _release(self, name: str) -> None:
        """Forget where the row of a name lies."""
        self._owners = {at: owner for at, owner in self._owners.items() if owner != name}


def own_(row: Row, name: str, owners: dict[int, str]) -> list[int]:
    """Make every gradient of a row own its memory, by a copy where it does not.

    Autograd hands over slices of one buffer, and one storage for two parameters that enter a sum;
    a wrapper hands over its own buffer (DistributedDataParallel with `gradient_as_bucket_view`),
    and the next backward pass writes over it.

    Args:
        row: what lay in `.grad`; changed in place.
        name: whose row it is.
        owners: for each address in use the name of its row; this row is entered.

    Returns:
        The positions that hold no gradient.

    Raises:
        TypeError: a gradient is sparse, a DTensor, or wraps other tensors.
        RuntimeError: a gradient lies where that of another row lies.
    """
    missing = []
    try:
        for t, gradient in enumerate(row):
            if gradient is None:
                missing.append(t)
                continue
            storage = gradient.untyped_storage()
            address = storage.data_ptr()
            if (
                address in owners
                or _holders(storage._cdata) > _ALONE
                or storage.nbytes() != gradient.nbytes
                # A lazy conjugate would be written into as if it were plain memory.
                or gradient.is_conj()
                or gradient.requires_grad
            ):
                if owners.get(address, name) != name:
                    raise RuntimeError(
                        f"the gradients of {name!r} were written over those of {owners[address]!r}:"
                        " one buffer serves several passes. Give each pass gradients of its own."
                    )
                row[t] = gradient.detach().resolve_conj().resolve_neg().clone()
            elif address:  # empty tensors and those of the meta device lie at address 0
                owners[address] = name
    except (NotImplementedError, RuntimeError):  # there is no memory to ask for
        for gradient in row:
            if gradient is not None:
                refuse_unsupported(gradient)
        raise
    return missing


def _version(gradient: Tensor | None) -> tuple[int, int]:
    """Tells a gradient from another one, and from itself after it was added to."""
    return (id(gradient), 0 if gradient is None else gradient._version)


def foreign(gradients: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """The gradients that wait in memory that somebody else owns, each with a copy of its values.

    A backward pass may write over them; `gradient.detach().copy_(values)` puts them back.
    """
    copies = []
    for gradient in gradients:
        if type(gradient) is not Tensor or gradient.layout is not torch.strided:
            continue
        if _holders(gradient.untyped_storage()._cdata) > _ALONE:
            copies.append((gradient, gradient.detach().clone()))
    return copies


def trainable(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The trainable parameters, read afresh: wrappers swap them in place."""
    groups = optimizer.param_groups
    return list(dict.fromkeys(p for g in groups for p in g["params"] if p.requires_grad))


_alive: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()


def register(optimizer: torch.optim.Optimizer) -> None:
    """Make an optimizer known to the others, as long as it lives."""
    _alive.add(optimizer)


def others_on(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]
) -> list[torch.optim.Optimizer]:
    """The other registered optimizers that hold one of these parameters."""
    if len(_alive) < 2:
        return []
    own = set(map(id, parameters))
    return [
        one
        for one in _alive
        if one is not optimizer
        and not own.isdisjoint(id(p) for group in one.param_groups for p in group["params"])
    ]


@contextlib.contextmanager
def undisturbed(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Keep `.grad` of the parameters of every other registered optimizer as it is.

    A backward pass fills every leaf of its graph. Where two optimizers share a model, the passes
    of one would add to the direction of the other, which waits in `.grad` for its step.

    Args:
        parameters: those that the passes inside the block are for.
    """
    if len(_alive) < 2:
        yield
        return
    own = set(map(id, parameters))
    everyone = (p for one in _alive for group in one.param_groups for p in group["params"])
    others = [p for p in everyone if id(p) not in own and p.requires_grad]
    waiting = [p.grad for p in others]
    copies = foreign(waiting)
    for p in others:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(others, waiting, strict=True):
            p.grad = gradient
        for gradient, values in copies:
            gradient.detach().copy_(values)
