"""project_out: a gradient without its components along others."""

import numpy as np
import torch
from torch import Tensor

from moopt.kernels.tolerances import CANCELLED
from moopt.projection.structure import G, Gradient, combined_, copied
from moopt.projection.unit_gramian import unit_gramian
from moopt.settings.numbers import check_number
from moopt.solvers.off_span import off_span
from moopt.solvers.pseudo_inverse import DEFAULT_RTOL


def project_out_(gradient: G, *others: Gradient, rtol: float = DEFAULT_RTOL) -> G:
    """Remove from a gradient its components along others, in place.

    `argmin ||d - g||` subject to `a_j . d = 0` for every other gradient a_j: the projection onto
    the orthogonal complement of their span, `d = g - A'(A A')^+ A g`. A small step along d changes
    none of the losses behind the a_j, to first order.

    Args:
        gradient: a tensor, a list of tensors or a dictionary of tensors, floating point or
            complex; None is a zero gradient, and becomes a tensor where another has one.
        others: gradients of the same kind, shapes, dtypes and device; none of them changes.
        rtol: relative cut-off of the pseudo-inverse, in [0, 1); default 1e-12, on the eigenvalues
            of the cosines: a small gradient is not cut off, nearly parallel ones count as one.

    Returns:
        `gradient` itself. Zero where it lies in the span of the others up to float64 rounding.

    Raises:
        TypeError: if kinds or dtypes differ, or a tensor is sparse or not floating point.
        ValueError: if lengths, names, shapes or devices differ, `rtol` is out of range, or the
            gradient is an expanded tensor.

    Numerics: inner products in float64 (float32 blocks on the host, 1e-6), the combination in
        float32 or better, rounded once to the dtype: `|a_j . d|` is a rounding of the dtype,
        relative to ||a_j|| ||g||, times the condition of the others. Independent of the length of
        every gradient. Two passes over memory, none of extra memory; the Gramian is read once from
        a device. NaN and infinity stay visible.

    Example:
        >>> import torch
        >>> from moopt.projection import project_out_
        >>> g = torch.tensor([3.0, 4.0, 5.0])
        >>> project_out_(g, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0]))
        tensor([0., 0., 5.])

    Source: M. Farajtabar, N. Azizan, A. Mott and A. Li, "Orthogonal Gradient Descent for Continual
    Learning", AISTATS 2020, whose Gram-Schmidt basis the pseudo-inverse replaces; Z. Pan et al.,
    "Federated Unlearning with Gradient Descent and Conflict Mitigation" (FedOSD), AAAI 2025.
    """
    _check_rtol(rtol, "project_out_")
    return combined_(gradient, others, lambda g: project_out_weights(g, rtol), "project_out_")


def project_out(gradient: G, *others: Gradient, rtol: float = DEFAULT_RTOL) -> G:
    """Return a gradient without its components along others; see `project_out_`.

    Args:
        gradient, others, rtol: as in `project_out_`; nothing changes.

    Returns:
        A new gradient: a tensor, a list or a dictionary.

    Example:
        >>> import torch
        >>> from moopt.projection import project_out
        >>> project_out({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 1.0])})
        {'w': tensor([3., 0.])}
    """
    return project_out_(copied(gradient, "project_out"), *others, rtol=rtol)


def project_onto_span_(gradient: G, *others: Gradient, rtol: float = DEFAULT_RTOL) -> G:
    """Replace a gradient by its projection onto the span of others, in place.

    `argmin ||d - g||` over the combinations of the others, `d = A'(A A')^+ A g`: what
    `project_out_` removes.

    Args:
        gradient, others, rtol: as in `project_out_`.

    Returns:
        `gradient` itself.

    Example:
        >>> import torch
        >>> from moopt.projection import project_onto_span_
        >>> project_onto_span_(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]))
        tensor([0., 4.])

    Source: as `project_out_`.
    """
    _check_rtol(rtol, "project_onto_span_")
    return combined_(gradient, others, lambda g: _span_weights(g, rtol), "project_onto_span_")


def project_onto_span(gradient: G, *others: Gradient, rtol: float = DEFAULT_RTOL) -> G:
    """Return the projection of a gradient onto the span of others; see `project_onto_span_`.

    Example:
        >>> import torch
        >>> from moopt.projection import project_onto_span
        >>> project_onto_span([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 2.0])])
        [tensor([0., 4.])]
    """
    return project_onto_span_(copied(gradient, "project_onto_span"), *others, rtol=rtol)


def project_out_weights(gramian: Tensor, rtol: float = DEFAULT_RTOL) -> Tensor:
    """Weights float64 `[m]` of row 0 projected off the span of the other rows."""
    start = torch.zeros_like(gramian[0])
    start[0] = 1.0
    if not torch.isfinite(gramian).all():
        # What is not finite stays visible: every row takes part.
        return start + 1.0
    norms, cosines, present = (field.cpu().numpy() for field in unit_gramian(gramian))
    unit = start.cpu().numpy()
    walls = present & (unit == 0.0)
    if present[0]:
        unit = off_span(cosines, unit, walls, rtol=rtol)
        if unit @ cosines @ unit <= CANCELLED * np.abs(unit).sum() ** 2:
            unit = np.zeros_like(unit)
    return torch.from_numpy(unit * (norms[0] / norms)).to(gramian)


def _span_weights(gramian: Tensor, rtol: float) -> Tensor:
    weights = -project_out_weights(gramian, rtol)
    weights[0] += 1.0
    return weights


def _check_rtol(rtol: float, caller: str) -> None:
    check_number(caller, "rtol", rtol, "in [0, 1)", use="1e-12 of the largest eigenvalue")
