"""PMGDA: descend along a preference ray, and first go back to it."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from moopt.kernels.tolerances import RESOLUTION
from moopt.settings.fields import integer, number, per_objective
from moopt.settings.preference import Preference
from moopt.solvers.gramian_hull import gramian_hull
from moopt.solvers.linear_program import best_vertex
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, Weighting
from moopt.weightings.problem import EPS

ON_THE_RAY = 64 * EPS
"""A distance to the ray below this, relative to the length of the losses, is rounding."""


def ray_distance(losses: Array, preference: Array) -> tuple[float, Array]:
    """How far losses are from the ray of multiples of a preference.

    With `u = preference / ||preference||`, the distance is `h = ||losses - (losses . u) u||`.

    Args:
        losses, preference: float64 `[m]`, finite.

    Returns:
        `h / ||losses||`, the sine of the angle to the ray; and dh / dlosses `[m]`, of length 1, or
        0 where h is 0 up to rounding and has no derivative.

    Example:
        >>> import numpy as np
        >>> from moopt.weightings.pmgda import ray_distance
        >>> sine, slope = ray_distance(np.array([3.0, 4.0]), np.array([1.0, 0.0]))
        >>> round(sine, 6), slope.tolist()
        (0.8, [0.0, 1.0])
    """
    values = losses / (np.abs(losses).max() or 1.0)
    along = preference / (np.linalg.norm(preference) or 1.0)
    away = values - (values @ along) * along
    distance = float(np.linalg.norm(away))
    sine = distance / (float(np.linalg.norm(values)) or 1.0)
    return sine, np.zeros(len(values)) if sine <= ON_THE_RAY else away / distance


def unit_ray(problem: Problem, slope: Array) -> tuple[Array, Array] | None:
    """The unit gradient u_h of a constraint h with `g_h = J' slope`; None where it is rounding.

    Returns:
        `u_h = sum_i combination_i u_i` in terms of the unit gradients, and the cosines `u_i . u_h`.
    """
    parts = slope * problem.norms
    parts = parts / (np.abs(parts).max() or 1.0)
    along = np.where(problem.norms > 0.0, problem.cosines @ parts, 0.0)
    square, terms = float(parts @ along), float(np.abs(parts).sum())
    if not square > max(RESOLUTION, problem.noise) * terms * terms:
        return None
    length = math.sqrt(square)
    return parts / length, np.clip(along / length, -1.0, 1.0)


def predicted(
    problem: Problem, ray: tuple[Array, Array] | None, tol: float, max_iter: int | None
) -> Solved:
    """The minimum-norm point of the gradients without their components along u_h."""
    combination, q = (np.zeros(problem.m),) * 2 if ray is None else ray
    rest = problem.cosines - q[:, None] * q
    # What is left of a gradient along u_h is rounding: it is stationary.
    lengths = np.where(rest.diagonal() > max(RESOLUTION, problem.noise), problem.norms, 0.0)
    solved = gramian_hull(rest * lengths * lengths[:, None], tol=tol, max_iter=max_iter)
    share = float((solved.weights * problem.norms) @ q)
    norms = np.where(problem.norms > 0.0, problem.norms, 1.0)
    return solved._replace(weights=solved.weights - share * combination / norms)


def corrected(
    problem: Problem, ray: tuple[Array, Array], sigma: float, tol: float, max_iter: int | None
) -> Solved:
    """`d = sum_i v_i u_i + v_h u_h` with the largest `min_i g_i . d` subject to `u_h . d >= sigma`.

    A program over v and v_h, on the simplex, and the two parts of `min_i g_i . d`, in units of the
    shortest gradient.
    """
    live = (problem.norms > 0.0).nonzero()[0]
    combination, q, norms = ray[0], ray[1][live], problem.norms[live]
    level = (norms.min() / norms)[:, None]
    upper = np.hstack([problem.cosines[np.ix_(live, live)], q[:, None], -level, level])
    solved = best_vertex(
        np.r_[np.zeros(len(live) + 1), 1.0, -1.0],
        np.vstack([upper, np.r_[q, 1.0, 0.0, 0.0]]),
        np.r_[np.zeros(len(live)), sigma],
        budget=np.r_[np.ones(len(live) + 1), 0.0, 0.0],
        tol=tol,
        max_iter=max_iter,
    )
    v = np.zeros(problem.m)
    v[live] = solved.weights[: len(live)]
    v += solved.weights[len(live)] * combination
    return solved._replace(weights=v / np.where(problem.norms > 0.0, problem.norms, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PMGDA(Weighting):
    """Go to the Pareto point on a preference ray: back to the ray, or down along it.

    Use it for losses in a given proportion.

    The constraint is the distance of the losses to the ray of multiples of the preference,
    `h = ||l - (l . u) u||`, and u_i, u_h are the unit gradients of the losses and of h.

    - correct, where `h > h_tol ||l||`: `d = sum_i v_i u_i + v_h u_h` with v on the simplex,
      `max min_i g_i . d` subject to `u_h . d >= sigma`. It lowers h at nearly the steepest rate
      and, among such directions, does the most for the worst loss, which it may raise.
    - predict, where `h <= h_tol ||l||`: the minimum-norm point of the gradients without their
      components along u_h. It lowers every loss, and h stays to first order.

    Args:
        preference: the proportion of the losses aimed at (EPO's r is its inverse), finite numbers
            >= 0, not all zero; a sequence in the order of the objectives, or a mapping from name
            to number. None means equal losses.
        h_tol: the sine of the angle between losses and ray up to which a step predicts, > 0 and
            < 1; default 0.01.
        sigma: how steeply a correcting step lowers h, relative to the steepest unit step, in
            (0, 1]; default 0.95.
        tol: relative tolerance of the solvers, in (0, 1); default 1e-9.
        max_iter: limit on their pivots, >= 1; None leaves it to the solvers.

    Raises:
        ValueError: if a setting is out of range; at the call, if the losses are missing or the
            preference does not fit the objectives.

    Numerics: a correcting step has length sigma to 1 whatever the gradients' scale, a predicting
        one the gradients' own: with a learning rate that leaps over the band of h_tol the two
        alternate. The program of a correcting step always has a solution, v_h = 1. Where h has no
        gradient a step is plain MGDA. DEGENERATE in a predicting step: no direction along the ray
        lowers every loss. An active zero row takes no part in a correcting step.

    Example:
        >>> import torch, moopt
        >>> from moopt.weightings import PMGDA
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> on_the_ray = moopt.StepStatistics(gramian=G, losses=torch.tensor([1.0, 1.0]))
        >>> [round(w, 12) for w in PMGDA()(on_the_ray).weights.tolist()]
        [0.5, 0.5]

    Source: X. Zhang, X. Lin and Q. Zhang, "PMGDA: A Preference-based Multiple Gradient Descent
    Algorithm", 2024, https://arxiv.org/abs/2402.09492; the correcting program, sigma and h_tol are
    those of the authors' LibMOON. We differ: h_tol is relative to the length of the losses. LibMOON
    predicts by plain MGDA; we follow the paper, which keeps h. It adds 1e-4 to every norm, and
    takes MGDA where its solver fails. Only the exact constraint is built in; `predicted` and
    `corrected` take any.
    """

    preference: Preference | None = per_objective()
    h_tol: float = number(0.01, "in (0, 1)", use="0.01, a sine")
    sigma: float = number(0.95, "in (0, 1]")
    tol: float = number(1e-9, "in (0, 1)")
    max_iter: int | None = integer(None, least=1)

    sees_zero_gradients: ClassVar[bool] = True

    # With equal preferences, equal gradients change no difference of losses: h has no gradient.
    @property
    def guarantees(self) -> frozenset[Guarantee]:
        return frozenset({Guarantee.IDEMPOTENT} if self.preference is None else ())

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"losses"}

    def weigh(self, problem: Problem, state: State) -> Solved:
        """A predicting step near the ray, a correcting one elsewhere."""
        assert problem.losses is not None
        preference = problem.vector(self.preference, self.name)
        sine, slope = ray_distance(problem.losses, preference)
        ray = unit_ray(problem, slope)
        if ray is None or sine <= self.h_tol:
            return predicted(problem, ray, self.tol, self.max_iter)
        return corrected(problem, ray, self.sigma, self.tol, self.max_iter)
