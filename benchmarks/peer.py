"""TorchJD, the peer library: optional, and never imported without being asked for."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

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


def dual_projection_weighting() -> Callable[[Tensor], Tensor]:
    """Its projection of the mean gradient onto the dual cone, with default settings."""
    from torchjd.aggregation import DualProjWeighting

    return DualProjWeighting()


def mgda() -> Any:
    """Its MGDA aggregator with default settings."""
    from torchjd.aggregation import MGDA

    return MGDA()


def constant(weights: Tensor) -> Any:
    """Its aggregator with given weights."""
    from torchjd.aggregation import Constant

    return Constant(weights)


@dataclasses.dataclass(frozen=True)
class Rival:
    """One of its methods on one problem: the timed call, and the direction it gives."""

    weights: Callable[[], Tensor]
    direction: Callable[[], Tensor]


# Settings that its classes demand; the values are this library's defaults.
SETTINGS: dict[str, dict[str, float]] = {
    "CAGrad": {"c": 0.5},
    "FairGrad": {"alpha": 2.0},
    "Krum": {"n_byzantine": 0},
    "PCD": {"tau": 0.1, "beta": 0.9},
}
FROM_THE_JACOBIAN = ("ConFIG", "NashMTL")


def weighting(name: str, jacobian: Tensor, gramian: Tensor) -> Rival | None:
    """Its method of this name; None where it has none.

    From the Gramian, but ConFIG and Nash-MTL, which it offers from the Jacobian alone.

    Raises:
        ImportError: one of its extras is missing; `make bench` installs them.
    """
    if version() is None:
        return None
    from torchjd import aggregation

    settings: dict[str, float] = SETTINGS.get(name, {})
    if name in FROM_THE_JACOBIAN:
        sizes = {"n_tasks": len(jacobian)} if name == "NashMTL" else {}
        built = getattr(aggregation, name)(**settings, **sizes)
        return Rival(lambda: built(jacobian), lambda: built(jacobian))
    solver = getattr(aggregation, f"{name}Weighting", None)
    # SDMGrad's takes three batches; Krum's at least three objectives.
    if solver is None or name == "SDMGrad" or (name == "Krum" and len(jacobian) < 3):
        return None
    # A modifier, of MGDA here as in our default.
    method = solver(mgda_weighting()) if name == "CRMOGM" else solver(**settings)
    given = jacobian if name in ("Mean", "Sum", "Random") else gramian
    exact = method
    if name in ("DualProj", "UPGrad"):
        # Timed as it comes; compared without the 1e-4 that it adds to the Gramian's diagonal.
        from torchjd.linalg import QuadprogProjector

        exact = solver(projector=QuadprogProjector(reg_eps=1e-12))
    return Rival(lambda: method(given), lambda: jacobian.T @ exact(given))


def aggregator(name: str, num_objectives: int = 2) -> Any | None:
    """Its aggregator (Jacobian to direction) of this name, or None without the library."""
    if version() is None:
        return None
    from torchjd import aggregation

    settings: dict[str, Any] = dict(SETTINGS.get(name, {}))
    if name == "NashMTL":
        settings["n_tasks"] = num_objectives
    if name == "TrimmedMean":
        settings["trim_number"] = 1
    return getattr(aggregation, name)(**settings)


AGGREGATORS = (
    "AlignedMTL", "CAGrad", "ConFIG", "DualProj", "ExcessMTL", "FairGrad", "GradDrop",
    "GradVac", "IMTLG", "Mean", "MGDA", "NashMTL", "PCD", "PCGrad", "Random", "Sum", "TrimmedMean",
    "UPGrad",
)  # fmt: skip


def aggregators(num_objectives: int) -> dict[str, Any]:
    """Every aggregator of its that takes three objectives; Krum needs more."""
    if version() is None:
        return {}
    return {name: aggregator(name, num_objectives) for name in AGGREGATORS}


def reload_error(method: Any, jacobian: Tensor) -> str | None:
    """The error with which a used method refuses to load its own state, if any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method(jacobian)
    state = method.state_dict()
    fresh = aggregator(type(method).__name__, len(jacobian))
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        return str(error).splitlines()[-1].strip()
    return None


def layerwise_gramian_error(model: nn.Module, x: Tensor, expected: Tensor) -> str:
    """The relative error of its autogram engine, or the exception that it raises."""
    if version() is None:
        return MISSING
    from torchjd.autogram import Engine

    engine = Engine(model, batch_dim=0)
    try:
        gramian = engine.compute_gramian(model.losses(x))
    except Exception as error:  # the exception is the finding
        return type(error).__name__
    return f"{float((gramian.double() - expected).norm() / expected.norm()):.1e}"


def jacobians(
    losses: Sequence[Tensor], parameters: Sequence[Tensor], chunk: int | None = None
) -> None:
    """Its backward pass of all losses at once; `chunk` of them at a time."""
    from torchjd.autojac import backward

    backward(list(losses), inputs=parameters, parallel_chunk_size=chunk)


def combine(
    parameters: Sequence[Tensor], aggregator: Any, *, optimize_gramian_computation: bool = False
) -> None:
    """Its way from the Jacobians to `.grad`."""
    from torchjd.autojac import jac_to_grad

    jac_to_grad(parameters, aggregator, optimize_gramian_computation=optimize_gramian_computation)


def backward(
    losses: Sequence[Tensor],
    parameters: Sequence[Tensor],
    aggregator: Any,
    *,
    optimize_gramian_computation: bool = False,
    parallel_chunk_size: int | None = None,
) -> None:
    """Its way from losses to `.grad`, with every option of interest."""
    jacobians(losses, parameters, parallel_chunk_size)
    combine(parameters, aggregator, optimize_gramian_computation=optimize_gramian_computation)
