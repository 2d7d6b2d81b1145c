"""pseudo_inverse against numpy, on both paths, with its cut-off and its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from moopt.solvers.pseudo_inverse import pseudo_inverse
from tests.cases import all_cases

RTOL = 1e-9
"""Cut-off of these tests: no family has an eigenvalue near it except near_parallel."""

RESIDUAL_TOL = 1e-14
"""Backward error of an eigendecomposition, per row: 64 eps."""


def inverted(matrix: Tensor, *, rtol: float = RTOL) -> Tensor:
    return torch.from_numpy(pseudo_inverse(matrix.numpy(), rtol=rtol))


def cosines(jacobian: Tensor) -> Tensor:
    norms = jacobian.norm(dim=-1)
    unit = jacobian / torch.where(norms > 0, norms, 1.0)[:, None]
    return unit @ unit.T


def check_pseudo_inverse(matrix: Tensor, inverse: Tensor) -> None:
    """Penrose's four conditions, each relative to the rounding that its products carry."""
    size, size_inverse = float(matrix.norm()), float(inverse.norm())
    slack = RESIDUAL_TOL * len(matrix) * (1.0 + size * size_inverse)
    product = matrix @ inverse
    assert float((product @ matrix - matrix).norm()) <= slack * size
    assert float((inverse @ product - inverse).norm()) <= slack * size_inverse
    assert float((product - product.T).norm()) <= slack * len(matrix) ** 0.5
    assert float((inverse - inverse.T).norm()) <= slack * size_inverse


def test_is_the_pseudo_inverse_of_every_family() -> None:
    for case in all_cases(ms=(1, 2, 3, 5, 8, 17)):
        if case.family == "near_parallel":
            continue  # eigenvalues on both sides of the cut-off: see the test of the cut-off
        matrix = cosines(case.jacobian)
        inverse = inverted(matrix)
        check_pseudo_inverse(matrix, inverse)
        expected = np.linalg.pinv(matrix.numpy(), rcond=RTOL, hermitian=True)
        difference = float((inverse - torch.from_numpy(expected)).norm())
        condition = float(matrix.norm() * inverse.norm())
        assert difference <= RESIDUAL_TOL * case.m * (1.0 + condition) * float(inverse.norm())


def test_a_matrix_that_is_not_the_inverse_fails() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    with pytest.raises(AssertionError):
        check_pseudo_inverse(matrix, torch.eye(2, dtype=torch.float64))


def test_the_cut_off_is_relative_to_the_largest_eigenvalue() -> None:
    for scale in (1e-60, 1.0, 1e60):
        matrix = scale * torch.diag(torch.tensor([1.0, 1e-5, 1e-7], dtype=torch.float64))
        inverse = inverted(matrix, rtol=1e-6).diagonal() * scale
        assert inverse.tolist() == pytest.approx([1.0, 1e5, 0.0], rel=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_zero_has_inverse_zero(m: int) -> None:
    zero = torch.zeros(m, m, dtype=torch.float64)
    assert torch.equal(inverted(zero), zero)


def test_one_number() -> None:
    for value, expected in ((4.0, 0.25), (0.0, 0.0), (1e-200, 1e200)):
        matrix = torch.tensor([[value]], dtype=torch.float64)
        assert float(inverted(matrix)) == pytest.approx(expected, rel=1e-15)


def test_noise_is_a_floor_of_the_cut_off() -> None:
    """Float32 rows a, b and a + b are dependent for all that their cosines tell."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.finfo(torch.float32).eps
    for _ in range(20):
        rows = torch.randn(3, 40, generator=generator)
        rows[2] = rows[0] + rows[1]
        rows = rows / rows.norm(dim=-1, keepdim=True)
        matrix = (rows @ rows.T).double()
        known = torch.from_numpy(pseudo_inverse(matrix.numpy(), noise=noise))
        values = torch.linalg.eigvalsh(rows.double() @ rows.double().T)
        assert float(known.norm()) <= 1.01 * float((1.0 / values[1:]).norm())
