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
