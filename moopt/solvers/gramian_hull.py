"""gramian_hull: the minimum-norm point of rows that a method made, of which some may be zero."""

import numpy as np

from moopt.records.result import Array, Solved
from moopt.records.status import SolverStatus
from moopt.solvers.equilibrated import cosines_of
from moopt.solvers.min_norm import min_norm


def gramian_hull(gramian: Array, *, tol: float = 1e-10, max_iter: int | None = None) -> Solved:
    """`min_norm` of a Gramian `[m, m]`: rows that are zero make it zero, and share the weight."""
    squares = gramian.diagonal()
    zero = squares <= 0.0
    if zero.any():
        return Solved(zero / zero.sum(), SolverStatus.DEGENERATE, 0.0)
    norms = np.sqrt(squares)
    return min_norm(cosines_of(gramian, norms), norms, tol=tol, max_iter=max_iter)
