"""DoubleSampling: weights that follow expected gradients, unbiased by independent batches."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from moopt.records.status import SolverStatus
from moopt.settings.fields import number
from moopt.settings.names import sample_name
from moopt.solvers.simplex import project_onto_simplex
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, StateEntry, Weighting

WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoubleSampling(Weighting):
    """The base of methods that move their weights by `J1 J2'` of two further batches.

    With independent batches behind its two sides, `K = J1 J2'` is an unbiased estimate of the
    Gramian of the expected gradients; `J J'` of one batch is not: its noise has a positive mean.
    Each step is `w <- P(w - step_size slope(K, w))`, P the projection onto the simplex.
    """

    step_size: float = number(1e-3, "finite and > 0")

    sees_zero_gradients: ClassVar[bool] = True

    # Not permutation-equivariant: a step of 1e30 ends in a vertex, and rounding chooses among
    # equals.
    guarantees = frozenset({Guarantee.SIMPLEX, Guarantee.IDEMPOTENT})

    needs = frozenset({"names", "auxiliary"})

    @property
    def state_entries(self) -> Mapping[str, StateEntry]:
        return {WEIGHTS: StateEntry(1, lambda m: 1.0 / m)}

    def reads_auxiliary(self, name: str) -> bool:
        """None that `weigh` does not check: samples of objectives left out may hold anything."""
        return False

    @abc.abstractmethod
    def _slope(self, products: Array, weights: Array, problem: Problem) -> Array:
        """What the weights are moved against, float64 `[m]`, for K and w."""

    def _direction(self, weights: Array, problem: Problem) -> Array:
        """The weights of the direction, float64 `[m]`, made of those that are kept."""
        return weights

    def weigh(self, problem: Problem, state: State) -> Solved:
        """One projected step of the weights, and the direction they make."""
        products = self._products(problem)
        if not np.isfinite(products).all():
            return Solved(np.full(problem.m, problem.share), SolverStatus.NON_FINITE)
        # Projected first: others may have taken part before.
        weights = project_onto_simplex(state[WEIGHTS])
        slope = self._slope(products, weights, problem)
        moved = project_onto_simplex(weights - self.step_size * slope)
        return Solved(self._direction(moved, problem), state={WEIGHTS: moved})

    def _products(self, problem: Problem) -> Array:
        """`J1 J2'`, float64 `[m, m]`."""
        assert problem.wide is not None
        assert problem.names is not None
        sides = []
        for sample in (1, 2):
            wanted = [sample_name(name, sample) for name in problem.names]
            missing = [name for name in wanted if name not in problem.auxiliary]
            if missing:
                raise ValueError(
                    f"`{self.name}` needs each loss on two further batches; the rows {missing} are"
                    " missing. Pass optimizer.backward(losses, samples=(losses_1, losses_2))."
                )
            sides.append([problem.m + problem.auxiliary.index(name) for name in wanted])
        return problem.wide[np.ix_(*sides)]
