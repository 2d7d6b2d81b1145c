"""rescale: the length of a direction, chosen apart from the direction itself."""

from typing import Literal, get_args

import torch
from torch import Tensor

from moopt.kernels.gramian import gramian
from moopt.projection.structure import G, Gradient, aligned_rows, copied, overwrite_
from moopt.settings.numbers import check_number

Length = Literal["keep", "mean_norm", "largest", "mean_gradient"]


@torch.no_grad()
def rescale_(direction: G, *gradients: Gradient, length: Length | float = "mean_norm") -> G:
    """Give a direction a length, in place: `d <- (l / ||d||) d`.

    - `"keep"`: as it is;
    - `"mean_norm"`: l is the mean of the norms `||g_i||` of the given gradients;
    - `"largest"`: l is the largest of them;
    - `"mean_gradient"`: l is the norm of their mean, which conflicts shorten;
    - a number: l itself.

    Args:
        direction: a tensor, a list of tensors or a dictionary of tensors, floating point or
            complex; None is a zero gradient.
        gradients: of the same kind, shapes, dtypes and device; none of them changes. None are
            needed for `"keep"` and for a number.
        length: default "mean_norm".

    Returns:
        `direction` itself. A zero direction stays zero.

    Raises:
        TypeError: if kinds or dtypes differ, or a tensor is sparse or not floating point.
        ValueError: if lengths, names, shapes or devices differ, if `length` is unknown, negative
            or not finite, or if there are no gradients to measure.

    Numerics: norms in float64, one rounding to the dtype; NaN and infinity stay visible. No
        synchronisation on a device.

    Example:
        >>> import torch
        >>> from moopt.projection import rescale_
        >>> rescale_(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0]))
        tensor([0., 3.])
        >>> rescale_(torch.tensor([0.0, 3.0]), length=0.5)
        tensor([0.0000, 0.5000])

    Source: no single origin. FedOSD (Z. Pan et al., AAAI 2025) and its sibling codes rescale to
    the norm of the mean gradient.
    """
    if isinstance(length, str):
        if length not in get_args(Length):
            raise ValueError(
                f"`length` of `rescale_` must be one of {list(get_args(Length))} or a number; got"
                f" {length!r}. Use 'mean_norm'."
            )
        if length != "keep" and not gradients:
            raise ValueError(
                f"`rescale_` with length={length!r} must have gradients to measure; got none. Pass"
                " rescale_(direction, *gradients), or a number as the length."
            )
    else:
        check_number("rescale_", "length", length, "finite and >= 0", use="'mean_norm'")
    rows = aligned_rows(direction, gradients, "rescale_")
    if length == "keep":
        return direction
    # One Gramian per row where only norms are needed: one reading each.
    own = gramian(rows[:1]).sqrt().reshape(1)
    factor = torch.where(own == 0, 1.0, _target(rows[1:], length, own) / own)
    overwrite_(rows[:1], factor, "rescale_")
    return direction


def rescale(direction: G, *gradients: Gradient, length: Length | float = "mean_norm") -> G:
    """Return a direction with a given length; see `rescale_`.

    Args:
        direction, gradients, length: as in `rescale_`; nothing changes.

    Returns:
        A new gradient: a tensor, a list or a dictionary.

    Example:
        >>> import torch
        >>> from moopt.projection import rescale
        >>> rescale([torch.tensor([0.0, 3.0])], length=6.0)
        [tensor([0., 6.])]
    """
    return rescale_(copied(direction, "rescale"), *gradients, length=length)


def _target(rows: list[list[Tensor | None]], length: Length | float, like: Tensor) -> Tensor:
    """float64 `[1]`: the wanted length."""
    if not isinstance(length, str):
        return torch.full_like(like, length)
    if length == "mean_gradient":
        products = gramian(rows)
        largest = products.diagonal().amax()
        safe = torch.where(largest > 0, largest, 1.0)
        return ((products / safe).sum().clamp_min(0.0).sqrt() * safe.sqrt() / len(rows)).reshape(1)
    norms = torch.stack([gramian([row]).reshape(()) for row in rows]).sqrt()
    return (norms.mean() if length == "mean_norm" else norms.amax()).reshape(1)
