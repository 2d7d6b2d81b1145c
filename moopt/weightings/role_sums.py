"""role_sums: the sum of the gradients to forget, and the sum of those to retain."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moopt.kernels.tolerances import CANCELLED
from moopt.records.result import Array
from moopt.weightings.problem import Problem


class RoleSums(NamedTuple):
    """g_f and g_r, the sums of the gradients of each role, as if their losses were added up.

    Attributes:
        forget: `||g_f||`; 0 where no objective to forget is present, or its sum is rounding.
        retain: `||g_r||`; 0 in the same cases.
        cosine: of the angle between the two; 0 where one of them is.
        places: in the problem, of the objectives to forget and of those to retain.
        m: the number of objectives in the problem.
    """

    forget: float
    retain: float
    cosine: float
    places: tuple[NDArray[np.intp], NDArray[np.intp]]
    m: int

    def weights(self, on_forget: float, on_retain: float) -> Array:
        """float64 `[m]`, the weights whose direction is `on_forget g_f + on_retain g_r`."""
        weights = np.zeros(self.m)
        weights[self.places[0]] = on_forget
        weights[self.places[1]] = on_retain
        return weights


def role_sums(problem: Problem, forget: NDArray[np.intp], retain: NDArray[np.intp]) -> RoleSums:
    """Norms and cosine of g_f and g_r, given the places of their objectives in a problem."""
    norms = sum_norm(problem, forget), sum_norm(problem, retain)
    cosine = 0.0
    if all(norms):
        ours, theirs = problem.norms[forget] / norms[0], problem.norms[retain] / norms[1]
        cosine = float(ours @ problem.cosines[forget][:, retain] @ theirs)
    return RoleSums(*norms, min(max(cosine, -1.0), 1.0), (forget, retain), problem.m)


def sum_norm(problem: Problem, places: NDArray[np.intp]) -> float:
    """The norm of the sum of the gradients at some places; 0 where it is rounding.

    Numerics: it loses as many digits as the gradients cancel; see `cancelled_below`.
    """
    norms = problem.norms[places]
    if len(norms) < 2:
        return float(norms.sum())
    largest = float(norms.max())
    terms = norms / largest
    square = float(terms @ problem.cosines[places][:, places] @ terms)
    if square <= cancelled_below(problem) * float(terms.sum()) ** 2:
        return 0.0
    return largest * math.sqrt(square)


def cancelled_below(problem: Problem) -> float:
    """The share of `(sum_i |w_i| ||g_i||)^2` below which `||sum_i w_i g_i||^2` is rounding."""
    return max(CANCELLED, problem.noise)
