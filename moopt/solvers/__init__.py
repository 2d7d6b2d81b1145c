"""Small, certified maths on an `[m, m]` Gramian."""

from moopt.solvers.min_norm import min_norm_point
from moopt.solvers.result import SolverResult
from moopt.solvers.simplex import simplex_projection

__all__ = ["SolverResult", "min_norm_point", "simplex_projection"]
