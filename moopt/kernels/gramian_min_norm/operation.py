"""gramian_min_norm: rows in, a step's weights and certificate out, on the rows' device."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from moopt.kernels.dispatch import Form
from moopt.kernels.fused import fused_form
from moopt.kernels.gramian import gramian as inner_products
from moopt.kernels.gramian_min_norm.numbers import LARGEST_FUSED
from moopt.kernels.gramian_min_norm.reference import weigh_reference
from moopt.kernels.pieces import Rows, positions
from moopt.records.device_point import DevicePoint


def fused_step(device: torch.device, m: int, dtypes: Collection[torch.dtype] = ()) -> Form:
    """The form of a step of m rows: "triton", or "reference" and why.

    Args:
        device: where the rows lie.
        m: the number of rows.
        dtypes: of the entries; none means all.
    """
    if m > LARGEST_FUSED:
        return Form("reference", f"a step of more than {LARGEST_FUSED} rows has no fused form")
    return fused_form("gramian_min_norm", device, width=m, dtypes=dtypes)


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
    max_iter: int | None = None,
) -> Tensor:
    """The inner products of m rows of gradients, and the weights of a step made of them.

    Nothing is read by the host. On a CUDA device the fused form is one launch: the program that
    ends last adds up the sums of all of them, and solves.

    Args:
        rows: as for `moopt.kernels.gramian`.
        losses, kept, point, known, preference, inactive_tol: as for `weigh_reference`.
        eps, tol, max_iter: as for `weigh_reference`.
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
        **{"inactive_tol": inactive_tol, "eps": eps, "tol": tol, "max_iter": max_iter},
    }
    checked, device = positions(rows, caller="gramian_min_norm"), losses.device
    dtypes = {g.dtype for position in checked for g in position if g is not None}
    if checked and fused_step(device, len(rows), dtypes).name == "triton":
        from moopt.kernels.gramian_min_norm.triton import gramian_min_norm_triton

        factor = None if scale is None else scale.to(torch.float64)
        return gramian_min_norm_triton(checked, losses, kept, scale=factor, **settings)  # type: ignore[arg-type]
    product = inner_products(rows) if rows[0] else losses.new_zeros(len(rows), len(rows))
    if scale is not None:
        product = product / scale / scale
    return weigh_reference(product, losses, kept, **settings)  # type: ignore[arg-type]
