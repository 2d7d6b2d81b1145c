"""project_conflicts: a gradient without its components against others."""

import torch
from torch import Tensor

from moopt.projection.structure import G, Gradient, combined_, copied
from moopt.projection.unit_gramian import unit_gramian
from moopt.settings.numbers import check_number


def project_conflicts_(gradient: G, *others: Gradient, cosine_clip: float | None = None) -> G:
    """Remove from a gradient its component along another where the two conflict, in place.

    For one other gradient a, `argmin ||d - g||` subject to `a . d >= 0`: `d = g` where
    `a . g >= 0`, else `d = g - (a . g) / ||a||^2 a`. That is A-GEM with a the gradient on the
    memory, the rectification of GRU with a the retain gradient, and one projection of PCGrad.
    Several are taken one after the other in the given order, each on what the previous one left, as
    PCGrad does: a later projection may bring back a conflict with an earlier one, which
    `project_onto_dual_cone_` never leaves.

    Args:
        gradient: a tensor, a list of tensors or a dictionary of tensors, floating point or
            complex; None is a zero gradient, and becomes a tensor where another has one.
        others: gradients of the same kind, shapes, dtypes and device; none of them changes.
        cosine_clip: in [-1, 0]: a cosine below it counts as it, which bounds the correction by
            `|cosine_clip| ||d||` and leaves some conflict; default None.

    Returns:
        `gradient` itself.

    Raises:
        TypeError: if kinds or dtypes differ, or a tensor is sparse or not floating point.
        ValueError: if lengths, names, shapes or devices differ, the clip is out of range, or the
            gradient is an expanded tensor.

    Numerics: as `project_out_`. A zero gradient among the others is skipped.

    Example:
        >>> import torch
        >>> from moopt.projection import project_conflicts_
        >>> project_conflicts_(torch.tensor([2.0, -4.0]), torch.tensor([0.0, 1.0]))
        tensor([2., 0.])
        >>> project_conflicts_(torch.tensor([2.0, 4.0]), torch.tensor([0.0, 1.0]))
        tensor([2., 4.])

    Source: A. Chaudhry, M. Ranzato, M. Rohrbach and M. Elhoseiny, "Efficient Lifelong Learning
    with A-GEM", ICLR 2019; T. Yu, S. Kumar, A. Gupta, S. Levine, K. Hausman and C. Finn, "Gradient
    Surgery for Multi-Task Learning" (PCGrad), NeurIPS 2020, where the order is random; Y. Wang et
    al., "GRU: Mitigating the Trade-off between Unlearning and Retention for LLMs", ICML 2025; the
    clip is an option of its authors' code.
    """
    if cosine_clip is not None:
        check_number(
            "project_conflicts_", "cosine_clip", cosine_clip, "in [-1, 0]", use="None or -0.5"
        )
    return combined_(
        gradient, others, lambda g: conflict_weights(g, cosine_clip), "project_conflicts_"
    )


def project_conflicts(gradient: G, *others: Gradient, cosine_clip: float | None = None) -> G:
    """Return a gradient without its components against others; see `project_conflicts_`.

    Args:
        gradient, others, cosine_clip: as in `project_conflicts_`; nothing changes.

    Returns:
        A new gradient: a tensor, a list or a dictionary.

    Example:
        >>> import torch
        >>> from moopt.projection import project_conflicts
        >>> project_conflicts([torch.tensor([2.0, -4.0])], [torch.tensor([0.0, 1.0])])
        [tensor([2., 0.])]
    """
    return project_conflicts_(
        copied(gradient, "project_conflicts"), *others, cosine_clip=cosine_clip
    )


def conflict_weights(gramian: Tensor, cosine_clip: float | None = None) -> Tensor:
    """Weights float64 `[m]` of row 0, projected off each other row that it conflicts with."""
    norms, cosines, _ = unit_gramian(gramian)
    unit = torch.zeros_like(norms)
    unit[0].fill_(1.0)
    for j in range(1, len(norms)):
        component = (cosines[j] @ unit).clamp_max(0.0)
        if cosine_clip is not None:
            length = (unit @ (cosines @ unit)).clamp_min(0.0).sqrt()
            component = torch.maximum(component, cosine_clip * length)
        unit[j].sub_(component)
    weights = unit * (norms[0] / norms)
    weights[0].fill_(1.0)
    return weights
