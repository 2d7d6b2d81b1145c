"""SolverStatus: how a numerical solve ended, as data that can stay on the device."""

import enum


class SolverStatus(enum.IntEnum):
    """How a solver ended. Tensors hold the integer codes; reading one gives this enum.

    A solver never raises inside a training step: numerical trouble is a status whose
    `explanation` says what happened, why, and what to do. Printed, it is its name; the code is
    `int(status)`.

    Example:
        >>> from moopt import SolverStatus
        >>> print(SolverStatus(0), f"{SolverStatus(0):>10}", f"{SolverStatus(0):d}")
        CONVERGED  CONVERGED 0
        >>> SolverStatus.DEGENERATE.explanation.split(":")[0]
        'the gradients cancel'
    """

    CONVERGED = 0
    MAX_ITER = 1
    DEGENERATE = 2
    NON_FINITE = 3
    RANK_DEFICIENT = 4
    INFEASIBLE = 5
    OUT_OF_DOMAIN = 6

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(int(self) if spec.endswith("d") else self.name, spec)

    @property
    def explanation(self) -> str:
        """What happened, why, and what to do, in one sentence."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    SolverStatus.CONVERGED: "the relative duality gap is within `tol`: the weights are certified.",
    SolverStatus.MAX_ITER: (
        "the iteration limit was reached before the gap met `tol`: the weights are feasible but"
        " not certified; read `gap`, raise `max_iter`, or use solver='active_set'."
    ),
    SolverStatus.DEGENERATE: (
        "the gradients cancel: zero lies in their convex hull up to rounding, so the point is"
        " Pareto stationary and no direction lowers every objective; stop, or change preference."
    ),
    SolverStatus.NON_FINITE: (
        "a loss or a gradient holds NaN or infinity: the weights are uniform, so that non-finite"
        " gradients reach `.grad`, where a GradScaler can see them, and the method's state stays;"
        " lower the scale, or pass CommonDescent(..., skip_non_finite=True)."
    ),
    SolverStatus.RANK_DEFICIENT: (
        "the gradients are linearly dependent, so the equations of the method have no solution:"
        " the weights are the least-squares ones and common descent is not certified; read"
        " `descent`, or use MGDA, whose weights exist for every Gramian."
    ),
    SolverStatus.INFEASIBLE: (
        "no direction meets the constraints that the method sets on this batch's gradients: the"
        " weights are the method's stated answer to that (zero, or the first priority alone); stop"
        " here, or loosen the constraint."
    ),
    SolverStatus.OUT_OF_DOMAIN: (
        "a loss lies where the method has no derivative (a logarithm needs positive losses): the"
        " weights are uniform in this step; shift the losses above zero, or use a method that is"
        " defined for every loss."
    ),
}
