"""project_onto_dual_cone: the nearest vector that conflicts with none of several gradients."""

from typing import Generic, NamedTuple

import torch
from torch import Tensor

from moopt.projection.structure import G, Gradient, combined_, copied
from moopt.records.result import SolverResult
from moopt.records.status import SolverStatus
from moopt.settings.numbers import check_number
from moopt.solvers.dual_cone import dual_cone_point


class DualConeProjection(NamedTuple, Generic[G]):
    """A projected gradient with its certificate.

    Attributes:
        gradient: the projection.
        result: of `moopt.solvers.dual_cone_point`: the weights of the gradient and of the others
            in the projection, and the status and gap that certify them.

    Example:
        >>> import torch
        >>> from moopt.projection import project_onto_dual_cone
        >>> projected = project_onto_dual_cone(torch.tensor([2.0, -4.0]), torch.tensor([0.0, 1.0]))
        >>> projected.gradient, projected.result.weights.tolist(), int(projected.result.status)
        (tensor([2., 0.]), [1.0, 4.0], 0)
    """

    gradient: G
    result: SolverResult


def project_onto_dual_cone_(
    gradient: G, *others: Gradient, strength: float = 0.0, tol: float = 1e-10
) -> DualConeProjection[G]:
    """Project a gradient onto the dual cone of others, in place.

    `argmin ||d - g||` subject to `a_j . d >= 0` for every other gradient a_j: the nearest
    direction that raises none of the losses behind the a_j, to first order. It is `d = g + sum_j
    v_j a_j` with `v_j >= 0`; with a strength s, GEM's `v_j >= s`, the projection of `g + s sum_j
    a_j` instead, which favours backward transfer.

    Args:
        gradient: a tensor, a list of tensors or a dictionary of tensors, floating point or
            complex; None is a zero gradient, and becomes a tensor where another has one.
        others: gradients of the same kind, shapes, dtypes and device; none of them changes.
        strength: GEM's memory strength, >= 0 and finite; default 0.0.
        tol: relative tolerance of the solver, > 0; default 1e-10.

    Returns:
        `gradient` itself, with the certificate of the solve. Zero, with status DEGENERATE, where
        no direction but zero satisfies all others up to float64 rounding.

    Raises:
        TypeError: if kinds or dtypes differ, or a tensor is sparse or not floating point.
        ValueError: if lengths, names, shapes or devices differ, a setting is out of range, or the
            gradient is an expanded tensor.

    Numerics: inner products in float64; the quadratic program is solved on unit gradients, so that
        no ridge is needed and small gradients count like large ones; the combination is rounded
        once to the gradient's dtype. NaN or infinity: status NON_FINITE, the mean of all rows, so
        that they stay visible. Two passes over memory; the Gramian is read once from a device.

    Example:
        >>> import torch
        >>> from moopt.projection import project_onto_dual_cone_
        >>> g = torch.tensor([-1.0, -2.0, 3.0])
        >>> memory = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
        >>> project_onto_dual_cone_(g, *memory).gradient
        tensor([0., 0., 3.])

    Source: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory for Continual Learning" (GEM),
    NeurIPS 2017. We differ: no ridge is added to the Gramian of the memories, and the solve is
    certified. With one other gradient it is A-GEM.
    """
    check_number(
        "project_onto_dual_cone_", "strength", strength, "finite and >= 0", use="0, or GEM's 0.5"
    )
    solved: list[SolverResult] = []

    def weigh(gramian: Tensor) -> Tensor:
        solved.append(_solve(gramian, strength, tol))
        return solved[0].weights

    combined_(gradient, others, weigh, "project_onto_dual_cone_")
    return DualConeProjection(gradient, solved[0])


def project_onto_dual_cone(
    gradient: G, *others: Gradient, strength: float = 0.0, tol: float = 1e-10
) -> DualConeProjection[G]:
    """Return the projection of a gradient onto the dual cone; see `project_onto_dual_cone_`.

    Args:
        gradient, others, strength, tol: as in `project_onto_dual_cone_`; nothing changes.

    Returns:
        A new gradient: a tensor, a list or a dictionary, with the certificate of the solve.

    Example:
        >>> import torch
        >>> from moopt.projection import project_onto_dual_cone
        >>> project_onto_dual_cone([torch.tensor([2.0, -4.0])], [torch.tensor([0.0, 1.0])]).gradient
        [tensor([2., 0.])]
    """
    return project_onto_dual_cone_(
        copied(gradient, "project_onto_dual_cone"), *others, strength=strength, tol=tol
    )


def _solve(gramian: Tensor, strength: float, tol: float) -> SolverResult:
    """The projection p of row 0, plus `strength` times the others, onto the cone of the others.

    The solver's cone has p itself among its gradients. That changes nothing: the projection d of
    p onto any cone has `p . d = ||d||^2 >= 0`.
    """
    eye = torch.eye(len(gramian), dtype=gramian.dtype, device=gramian.device)
    change = eye.clone()
    change[0, 1:].fill_(strength)
    shifted = gramian if strength == 0.0 else change @ gramian @ change.mT
    result = dual_cone_point(shifted, eye[0], tol=tol)
    weights = change.mT @ result.weights
    if result.status == SolverStatus.DEGENERATE:
        weights = torch.zeros_like(weights)
    return result._replace(weights=weights)
