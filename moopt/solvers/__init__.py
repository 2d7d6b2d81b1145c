"""Small, certified maths on an `[m, m]` Gramian."""

from moopt.records.result import SolverResult
from moopt.solvers.cagrad import cagrad_point
from moopt.solvers.dual_cone import dual_cone_point
from moopt.solvers.fixed_point import fixed_point
from moopt.solvers.linear_program import linear_program
from moopt.solvers.min_norm import min_norm_point
from moopt.solvers.pareto_stationarity import Stationarity, stationarity
from moopt.solvers.simplex import simplex_projection

__all__ = [
    "SolverResult",
    "Stationarity",
    "cagrad_point",
    "dual_cone_point",
    "fixed_point",
    "linear_program",
    "min_norm_point",
    "simplex_projection",
    "stationarity",
]
