"""capture: run a backward pass and take what it left in `.grad`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor


@contextlib.contextmanager
def set_aside_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Empty every `.grad` inside the block and put the former gradients back afterwards.

    With `.grad` empty, autograd hands its own buffer over without a copy. The former gradients
    come back whatever happens inside, so an exception loses nothing of them.
    """
    former = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(parameters, former, strict=True):
            p.grad = gradient


def resume_row(parameters: Sequence[Tensor], row: Sequence[Tensor | None]) -> None:
    """Put a row back into `.grad`, so that the next backward pass accumulates into it.

    As torch does, and so that a wrapper that synchronises only the last of several micro-batches
    (`no_sync`) reduces their sum.
    """
    for p, gradient in zip(parameters, row, strict=True):
        p.grad = gradient


def take_gradients(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """Move every `.grad` into a list, leaving None behind; each entry owns its memory.

    Autograd may hand over tensors that share one storage (two parameters that enter a sum through
    views, slices of one buffer); those are copied, so that writing into one entry in place never
    changes another.

    Raises:
        TypeError: a gradient is sparse.
    """
    row: list[Tensor | None] = []
    storages: set[int] = set()
    for p in parameters:
        gradient = p.grad
        p.grad = None
        if gradient is not None:
            if gradient.is_sparse or gradient.is_sparse_csr:
                raise TypeError(
                    f"gradients must be dense; got {gradient.layout} for a parameter of shape"
                    f" {list(p.shape)}. Build the module with sparse=False."
                )
            # Lazy conjugates and negatives would be written into as if they were plain memory.
            gradient = gradient.resolve_conj().resolve_neg()
            storage = gradient.untyped_storage()
            address = storage.data_ptr()
            if storage.nbytes() != gradient.nbytes or (address in storages and gradient.nbytes):
                gradient = gradient.clone()
            else:
                storages.add(address)
        row.append(gradient)
    return row
