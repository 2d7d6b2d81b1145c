"""The gate of the projections onto the dual cone: what a form must give before it is used."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from moopt.kernels.dual_cone.reference import dual_cone_reference
from moopt.kernels.tolerances import CERTIFIED
from moopt.records.status import SolverStatus


def dual_cone_gate(
    form: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    device: torch.device,
    widths: Iterable[int],
) -> str:
    """What a form of the projection gives that the reference does not.

    Args:
        form: as `dual_cone_reference`.
        device: where the Gramians are made.
        widths: the numbers of rows that are tried.
    """
    for m in widths:
        generator = torch.Generator().manual_seed(m)
        rows = torch.randn(7, m, m + 2, generator=generator, dtype=torch.float64)
        rows[1] *= 10.0 ** torch.linspace(-8.0, 8.0, m, dtype=torch.float64)[:, None]
        rows[2, 0] = -rows[2, 1:].sum(0)  # stationary; a zero row where m = 1
        rows[3, 0] = 0.0
        rows[4] += 5.0  # no conflict
        gramian = (rows @ rows.mT).to(device)
        gramian[5, 0, m - 1] = math.nan
        active = torch.ones(7, m, dtype=torch.bool, device=device)
        active[6, m // 2] = m == 1
        preference = torch.rand(7, m, generator=generator, dtype=torch.float64).to(device)
        for separate in (True, False):
            found = form(gramian, preference, active, separate=separate)
            expected = dual_cone_reference(
                gramian, preference, active, separate=separate, enumerate_faces=False
            )
            told = _differs(found, expected, gramian, active)
            if told:
                return f"m = {m}, separate = {separate}: {told}"
    return ""


def _differs(
    found: tuple[Tensor, ...], expected: tuple[Tensor, ...], gramian: Tensor, active: Tensor
) -> str:
    weights, status, gap, _ = found
    if not torch.equal(status, expected[1]):
        return f"the status is {status.tolist()}, not {expected[1].tolist()}"
    if not bool((gap[status == SolverStatus.CONVERGED] <= CERTIFIED).all()):
        return f"gaps of {gap.tolist()}"
    if not bool((weights[~active] == 0.0).all()):
        return "a row that is not active has a weight"
    # Of dependent rows the weights are not unique, and the direction is.
    apart = torch.where(active, weights - expected[0], 0.0)
    finite = status != SolverStatus.NON_FINITE
    square = (apart * (gramian @ apart[..., None])[..., 0]).sum(-1)
    lengths = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    size = (expected[0].abs() * lengths).sum(-1)
    if not bool((square.clamp_min(0.0).sqrt() <= 1e-7 * size)[finite].all()):
        return f"weights are wrong by {apart.abs().amax(-1).tolist()}"
    return ""
