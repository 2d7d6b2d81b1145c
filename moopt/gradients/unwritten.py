"""Unwritten: what lies in `.grad` where a direction is never written, and refuses to be read."""

from typing import Any, NoReturn

import torch
from torch import Tensor


class Unwritten(Tensor):
    """A tensor with the shape, dtype and device of a parameter, and without values.

    It stands in `.grad` for a direction that the step makes and uses entry by entry. Whatever
    would read or write it (clipping, the unscaling of a GradScaler, a backward pass that adds to
    it, another optimizer's step, a logged norm) raises, where zeros would be wrong in silence.
    """

    @staticmethod
    def __new__(cls, like: Tensor) -> "Unwritten":
        made: Unwritten = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )
        return made

    def __init__(self, like: Tensor) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # An attribute (`shape`, `is_sparse`, ...), or a question about metadata. Those that compute
        # (`data`, `T`) come to `__torch_dispatch__`.
        if getattr(func, "__name__", "") not in _METADATA:
            _refuse(func)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        _refuse(func)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Unwritten(shape={list(self.shape)}, dtype={self.dtype}, device={self.device})"

    def __format__(self, spec: str) -> str:
        return repr(self).__format__(spec)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse("pickle")


_METADATA = frozenset(
    {
        *(
            "__get__",
            "__len__",
            "__hash__",
            "size",
            "stride",
            "dim",
            "ndimension",
            "numel",
            "nelement",
        ),
        *("element_size", "is_contiguous", "is_floating_point", "is_complex", "get_device"),
        *("type", "requires_grad_", "storage_offset", "is_signed", "is_conj", "is_neg"),
    }
)


def _refuse(what: object) -> NoReturn:
    raise RuntimeError(
        "`.grad` has no values with fused=True: the direction is never written, and step() makes it"
        f" and uses it entry by entry; {what} asked for them. Clip, log, unscale or change"
        " gradients with CommonDescent(..., fused=False)."
    )
