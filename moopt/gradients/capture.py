"""capture: what a backward pass left in `.grad`, as a row that owns its memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.gradients.shards import refuse_unsupported

Row = list[Tensor | None]
"""One entry per parameter: a gradient, or None where the objective does not reach it."""

# A tensor and the Python object of its storage: whoever else holds the memory may write to it.
_ALONE = 2
_holders = torch._C._storage_Use_Count


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
                        f"the gradients of {name!r} were written over those of"
                        f" {owners[address]!r}: one buffer serves several backward passes. Give"
                        " every backward pass gradients of its own."
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


def foreign(gradients: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
    """The gradients that wait in memory of somebody else, each with a copy of its values.

    A backward pass may write over them; `gradient.detach().copy_(values)` puts them back.
    """
    copies = []
    for gradient in gradients:
        if type(gradient) is not Tensor or gradient.layout is not torch.strided:
            continue
        if _holders(gradient.untyped_storage()._cdata) > _ALONE:
            copies.append((gradient, gradient.detach().clone()))
    return copies
