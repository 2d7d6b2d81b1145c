"""fused: whether an operation has a fused form on a device, and if not, why."""

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Collection, Hashable
from typing import Any

import torch

from moopt.kernels import dispatch
from moopt.kernels.dispatch import FORCED, Form

OLDEST = (8, 0)
"""The compute capability from which on the kernels are compiled in the tests."""


def fused_form(
    operation: str,
    device: torch.device,
    *,
    width: int | None = None,
    dtypes: Collection[torch.dtype] = (),
    **options: Hashable,
) -> Form:
    """The form of an operation for tensors of one device: "triton", or "reference" and why.

    A fused form runs on a device once it has given there, on small cases with every kind of border,
    what the reference gives: it may meet a compiler or a card that nobody has tried. Where it does
    not, a warning says so once, and the reference serves.

    Args:
        operation: the name of a folder of `moopt.kernels` with a `triton.py`.
        device: where the tensors lie.
        width: the number of rows; every kernel is compiled for one, and checked for it. None checks
            all kinds, which compiles for many seconds.
        dtypes: of the entries; none means all.
        options: what else `probe` of that `triton.py` takes; each choice is checked by itself.
    """
    if dispatch.REFERENCE_ONLY:
        return FORCED
    if device.type != "cuda":
        return Form("reference", f"fused forms are for CUDA, and the tensors lie on {device.type}")
    return _on_cuda(operation, device, width, frozenset(dtypes), tuple(sorted(options.items())))


@functools.cache
def _on_cuda(
    operation: str,
    device: torch.device,
    width: int | None,
    dtypes: frozenset[torch.dtype],
    options: tuple[tuple[str, Any], ...],
) -> Form:
    if torch.version.hip is not None:
        return Form("reference", "fused forms are for CUDA, and this is ROCm")
    if torch.cuda.get_device_capability(device) < OLDEST:
        return Form("reference", f"the card's compute capability is below {OLDEST[0]}.{OLDEST[1]}")
    if importlib.util.find_spec("triton") is None:
        return Form("reference", "triton is not installed")
    try:
        module = importlib.import_module(f"moopt.kernels.{operation}.triton")
        told = module.probe(device, width, dtypes, **dict(options))
    except Exception as error:  # of a compiler or driver: told in the warning, and in `why`
        told = f"{type(error).__name__}: {error}"
    if not told:
        return Form("triton", "it agrees with the reference on this device")
    warnings.warn(
        f"moopt does not use its fused {operation} on {device}: {told}. The reference form runs"
        " instead, which is slower; please report this.",
        RuntimeWarning,
        stacklevel=2,
    )
    return Form("reference", told)
