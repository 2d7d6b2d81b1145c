"""gramian_min_norm: rows in, a step's weights and certificate out, on the rows' device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.kernels.gramian import gramian as inner_products
from moopt.kernels.gramian_min_norm.reference import weigh_reference
from moopt.kernels.pieces import Rows
from moopt.records.device_point import DevicePoint


@torch.no_grad()
def gramian_min_norm(
    rows: Rows,
    losses: Tensor,
    kept: Tensor,
    *,
    point: DevicePoint,
    known: Sequence[bool] | None = None,
    preference: Tensor | None = None,
    scale: Tensor | None = None,
    inactive_tol: float = 0.0,
    eps: float = 0.0,
    tol: float = 1e-10,
) -> Tensor:
    """The inner products of m rows of gradients, and the weights of a step made of them.

    Nothing is read by the host. On a CUDA device the fused form is one launch: the program that
    ends last adds up the sums of all of them, and solves.

    Args:
        rows: as for `moopt.kernels.gramian`.
        losses, kept, point, known, preference, inactive_tol, eps, tol: as for `weigh_reference`.
        scale: a scalar on the device, the factor of a GradScaler that the rows carry.

    Returns:
        The packed `StepNumbers`, with the unscaled Gramian.

    Raises:
        ValueError, TypeError: as `moopt.kernels.gramian`.

    Example:
        >>> import torch
        >>> from moopt.kernels.gramian_min_norm import gramian_min_norm, kept_numbers, unpacked
        >>> from moopt.records.device_point import DevicePoint
        >>> rows = [[torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 1.0])]]
        >>> losses = torch.ones(2, dtype=torch.float64)
        >>> kept = kept_numbers(2, losses.device)
        >>> out = unpacked(gramian_min_norm(rows, losses, kept, point=DevicePoint.HULL), 2)
        >>> out.weights.tolist(), out.gramian.tolist()
        ([0.0, 1.0], [[25.0, 4.0], [4.0, 1.0]])
    """
    settings = {
        **{"point": point, "known": known, "preference": preference},
        **{"inactive_tol": inactive_tol, "eps": eps, "tol": tol},
    }
    product = inner_products(rows) if rows[0] else losses.new_zeros(len(rows), len(rows))
    if scale is not None:
        product = product / scale / scale
    return weigh_reference(product, losses, kept, **settings)  # type: ignore[arg-type]
