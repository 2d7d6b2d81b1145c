"""TorchJD, the peer library: optional, and never imported without being asked for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

MISSING = "not installed (pip install torchjd==0.18.0)"


def version() -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version("torchjd")
    except importlib.metadata.PackageNotFoundError:
        return None


def mgda_weighting() -> Callable[[Tensor], Tensor]:
    """Its MGDA solver with default settings: Gramian to weights."""
    from torchjd.aggregation import MGDAWeighting

    return MGDAWeighting()


def mgda() -> Any:
    """Its MGDA aggregator with default settings."""
    from torchjd.aggregation import MGDA

    return MGDA()


def constant(weights: Tensor) -> Any:
    """Its aggregator with given weights."""
    from torchjd.aggregation import Constant

    return Constant(weights)


def backward(
    losses: Sequence[Tensor],
    parameters: Sequence[Tensor],
    aggregator: Any,
    *,
    optimize_gramian_computation: bool = False,
    parallel_chunk_size: int | None = None,
) -> None:
    """Its way from losses to `.grad`, with every option of interest."""
    from torchjd.autojac import backward as jacobians
    from torchjd.autojac import jac_to_grad

    jacobians(list(losses), inputs=parameters, parallel_chunk_size=parallel_chunk_size)
    jac_to_grad(parameters, aggregator, optimize_gramian_computation=optimize_gramian_computation)
