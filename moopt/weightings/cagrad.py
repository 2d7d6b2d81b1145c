"""CAGrad: the best worst improvement in a ball around the mean gradient."""

import dataclasses
from typing import ClassVar, Literal, get_args

from moopt.settings.fields import integer, number, one_of
from moopt.solvers.cagrad import cagrad
from moopt.weightings.base import Guarantee, Problem, Solved, State, Weighting

Rescale = Literal["none", "square", "linear"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CAGrad(Weighting):
    """Improve the worst objective as much as a ball around the mean gradient allows.

    Use it to stay close to training on the mean loss and still help the objective that gains least.

    `d = argmax min_i g_i . d` subject to `||d - g0|| <= c ||g0||` with the mean gradient g0. The
    optimum lies on the sphere, `||d - g0|| = c ||g0||`: `d = g0 + c ||g0|| g_w / ||g_w||`, where
    w minimises `g0 . g_w + c ||g0|| ||g_w||` over the simplex. For c = 0 it is the mean; as c
    grows it turns towards MGDA. With c < 1 the mean loss still falls, and converges, but an
    objective may rise where every direction of the ball raises one.

    Args:
        c: the radius relative to ||g0||, finite, >= 0; the paper proves convergence for c < 1;
            from c = 1 on, d is a common descent direction wherever there is one. Default 0.5, as
            in the paper's toy problem (its multi-task experiments tune it around 0.4).
        rescale: "none" (default; the paper), "square": d / (1 + c^2), the default of the authors'
            code; "linear": d / (1 + c). It changes the step length only.
        tol: relative tolerance of the solver, > 0; default 1e-10.
        max_iter: limit on the solver's minimum-norm problems, >= 1; None leaves it to the solver.

    Raises:
        ValueError: if a setting is out of range.

    Numerics: certified by the duality gap of each row. At a Pareto stationary point where g_w = 0
        is optimal the paper's formula divides by zero: every d of the ball that raises no
        objective is then a solution, and the one nearest to g0 is taken, inside the ball, with
        status DEGENERATE.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import CAGrad
        >>> statistics = moopt.StepStatistics(gramian=torch.eye(2, dtype=torch.float64))
        >>> [round(w, 12) for w in CAGrad(c=0.5)(statistics).weights.tolist()]
        [0.75, 0.75]

    Source: B. Liu, X. Liu, X. Jin, P. Stone and Q. Liu, "Conflict-Averse Gradient Descent for
    Multi-task Learning", NeurIPS 2021, https://arxiv.org/abs/2110.14048; `rescale` follows the
    authors' code. We differ from that code: it adds 1e-8 or 1e-4 to norms and stops its solver
    early, so that small gradients change the method; here nothing is added.
    """

    c: float = number(0.5, "finite and >= 0")
    rescale: Rescale = one_of("none", get_args(Rescale))
    tol: float = number(1e-10, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    sees_zero_gradients: ClassVar[bool] = True

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS, Guarantee.PERMUTATION_EQUIVARIANT}
        if self.c >= 1.0:
            # The ball then holds a step, however short, of every common descent direction.
            promises.add(Guarantee.NON_CONFLICTING_IF_INDEPENDENT)
        if self.c == 0.0:
            promises |= {Guarantee.SIMPLEX, Guarantee.IDEMPOTENT}
        if self.rescale == "linear":
            promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    def weigh(self, problem: Problem, state: State) -> Solved:
        """The solver's weights, over the divisor of `rescale`."""
        solved = cagrad(
            problem.cosines,
            problem.norms,
            self.c,
            tol=self.tol,
            max_iter=self.max_iter,
            noise=problem.noise,
        )
        divisor = {"none": 1.0, "square": 1.0 + self.c**2, "linear": 1.0 + self.c}[self.rescale]
        return solved._replace(weights=solved.weights / divisor)
