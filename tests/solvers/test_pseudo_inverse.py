"""pseudo_inverse against numpy, on both paths, with its cut-off and its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import moopt.solvers.pseudo_inverse as module
from moopt.solvers.pseudo_inverse import jacobi_pseudo_inverse, pseudo_inverse
from tests.cases import all_cases

RTOL = 1e-9
"""Cut-off of these tests: no family has an eigenvalue near it except near_parallel."""

RESIDUAL_TOL = 1e-14
"""Backward error of an eigendecomposition, per row: 64 eps."""

PATHS = {"host": pseudo_inverse, "device": lambda matrix, rtol: jacobi_pseudo_inverse(matrix, rtol)}


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


@pytest.mark.parametrize("path", PATHS)
def test_is_the_pseudo_inverse_of_every_family(path: str) -> None:
    for case in all_cases(ms=(1, 2, 3, 5, 8, 17)):
        if case.family == "near_parallel":
            continue  # eigenvalues on both sides of the cut-off: see the test of the cut-off
        matrix = cosines(case.jacobian)
        inverse = PATHS[path](matrix, rtol=RTOL)
        check_pseudo_inverse(matrix, inverse)
        expected = np.linalg.pinv(matrix.numpy(), rcond=RTOL, hermitian=True)
        difference = float((inverse - torch.from_numpy(expected)).norm())
        condition = float(matrix.norm() * inverse.norm())
        assert difference <= RESIDUAL_TOL * case.m * (1.0 + condition) * float(inverse.norm())


def test_a_matrix_that_is_not_the_inverse_fails() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    with pytest.raises(AssertionError):
        check_pseudo_inverse(matrix, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
def test_the_cut_off_is_relative_to_the_largest_eigenvalue(path: str) -> None:
    for scale in (1e-60, 1.0, 1e60):
        matrix = scale * torch.diag(torch.tensor([1.0, 1e-5, 1e-7], dtype=torch.float64))
        inverse = PATHS[path](matrix, rtol=1e-6).diagonal() * scale
        assert inverse.tolist() == pytest.approx([1.0, 1e5, 0.0], rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_leading_dimensions_are_independent(path: str) -> None:
    matrices = torch.stack([cosines(c.jacobian) for c in all_cases(ms=(5,))])
    batched = PATHS[path](matrices.unflatten(0, (1, -1)), rtol=RTOL)[0]
    for matrix, inverse in zip(matrices, batched, strict=True):
        if float(torch.linalg.cond(matrix)) < 1e6:
            alone = PATHS[path](matrix, rtol=RTOL)
            assert torch.allclose(inverse, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_zero_has_inverse_zero(m: int) -> None:
    zero = torch.zeros(m, m, dtype=torch.float64)
    for path in PATHS.values():
        assert torch.equal(path(zero, rtol=RTOL), zero)


@pytest.mark.parametrize("on_host", [True, False])
def test_non_finite_matrices_stay_apart(monkeypatch: pytest.MonkeyPatch, on_host: bool) -> None:
    monkeypatch.setattr(module, "runs_on_host", lambda tensor: on_host)
    matrices = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    matrices[0, 1, 2] = float("inf")
    inverse = pseudo_inverse(matrices)
    assert inverse[0].isnan().all()
    assert torch.allclose(inverse[1], matrices[1])


@pytest.mark.slow
@pytest.mark.parametrize("m", [50, 101])
def test_rotations_converge_for_many_rows(m: int) -> None:
    for case in all_cases(ms=(m,), families=("crowded", "near_parallel", "zero_row")):
        matrix = cosines(case.jacobian)
        values, vectors = module.jacobi_eigh(matrix)
        rebuilt = (vectors * values) @ vectors.T
        assert float((rebuilt - matrix).abs().max()) <= RESIDUAL_TOL * m


@pytest.mark.parametrize("path", PATHS)
def test_one_number(path: str) -> None:
    for value, expected in ((4.0, 0.25), (0.0, 0.0), (1e-200, 1e200)):
        matrix = torch.tensor([[value]], dtype=torch.float64)
        assert float(PATHS[path](matrix, rtol=RTOL)) == pytest.approx(expected, rel=1e-15)
