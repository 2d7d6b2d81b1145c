"""The tolerances that every form of the solvers shares, each with its reason."""

import sys

EPS = sys.float_info.epsilon

# What exact solvers aim at, and nearly always beat by orders: max_i (||x||^2 - x . g_i) / (||x||
# ||g_i||).
CERTIFIED = 1e-10
# A squared length this small beside the square of the sum of its terms' lengths is rounding: the
# terms cancel, and what is left is zero.
CANCELLED = 64 * EPS
# A Schur complement this small is the rounding of a unit diagonal: the row is dependent.
DEPENDENT = 16 * EPS
# A residual of the scaled problem this small, relative to the size of its terms, is rounding.
RESIDUAL_ROUNDING = 4 * EPS
# ||x||^2 <= STATIONARY * min ||g_i||^2: the point is zero for every practical purpose.
STATIONARY = 1e-13
# ||x||^2 <= RESOLUTION * (sum_i w_i ||g_i||)^2: the rounding of the Gramian's entries hides
# whether the point is zero.
RESOLUTION = 16 * EPS

# (G w)_i >= -DESCENT_TOL ||g_i|| ||d|| counts as descent: ten times the solvers' tolerance.
DESCENT_TOL = 1e-9
# Slack for the rounding of (G w)_i itself, relative to ||g_i|| sum_j |w_j| ||g_j||.
INNER_ROUNDING = 64 * EPS
# A direction is resolved when rounding turns it by less than this angle.
RESOLVED = 1e-3
# A small gradient whose loss is small to match, within this factor, is a small objective.
PROPORTIONATE = 30.0
