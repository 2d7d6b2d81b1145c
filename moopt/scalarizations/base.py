"""Scalarization: weights that are the derivatives of one number made of the losses."""

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.settings.fields import checked_fields
from moopt.weightings.base import Array, Guarantee, Problem, Solved, State, Weighting


class Scalarization(Weighting):
    """A weighting that looks at the losses only: `w_i = ds / dloss_i` for a scalar `s(losses)`.

    The gradient of `s` is `sum_i w_i g_i`, so one backward pass of `sum_i w_i loss_i` with fixed
    weights is the gradient of `s`: `CommonDescent` does just that one, and every parameter (task
    heads too) takes the weighted sum, as in training on `s`. The record of such a step knows
    losses and weights, and no gradient of a single objective.

    None of them promises common descent. Through `objective(...)` and `combine_()`, or with
    micro-batches (`accumulate=True`), the rows are there and the record is complete; the weights
    are those of the *summed* losses, since `s` of a sum is not the sum of the parts.

    Where `s` has no derivative (a logarithm of a loss that is not positive) the weights of that
    step are uniform, its status is OUT_OF_DOMAIN, and the method learns nothing from it; with the
    next loss inside the domain it goes on as if the step had not been. With a single objective
    `CommonDescent` takes the wrapped optimizer's own step.

    Example:
        >>> import torch, moopt
        >>> from moopt.scalarizations import GLS
        >>> statistics = moopt.StepStatistics(
        ...     gramian=torch.eye(2), losses=torch.tensor([1.0, 4.0])
        ... )
        >>> [round(w, 12) for w in GLS()(statistics).weights.tolist()]
        [1.0, 0.25]
    """

    reads_gradients: ClassVar[bool] = False

    @functools.cached_property
    def guarantees(self) -> frozenset[Guarantee]:
        # A number that belongs to a position stays there when the objectives are permuted.
        values = [getattr(self, field.name) for field in checked_fields(self)]
        positional = any(isinstance(value, tuple) for value in values)
        return frozenset(() if positional else {Guarantee.PERMUTATION_EQUIVARIANT})

    def neglected(self, names: Sequence[str], weights: Tensor) -> Mapping[str, str]:
        """Objectives that a step did not train although nobody asked for that: name -> why.

        Args:
            names: the objectives of the step.
            weights: float64 `[m]`, those of the step.
        """
        return {}

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        return super().needs | {"losses"}


def differentiated(weights: Array, state: State | None = None) -> Solved:
    """The weights where the scalar has a derivative, and the next state; None leaves it."""
    return Solved(weights, SolverStatus.CONVERGED, state=state)


def out_of_domain(problem: Problem, state: State | None = None) -> Solved:
    """Uniform weights, for losses at which the scalar has no derivative.

    Args:
        problem: the step.
        state: the next state; None leaves it as it was.
    """
    weights = np.full(problem.m, 1.0 / problem.m)
    return Solved(weights, SolverStatus.OUT_OF_DOMAIN, state=state)


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """`exp(logits / temperature)` divided by its sum; no temperature > 0 makes it overflow."""
    exponentials = np.exp((logits - logits.max()) / temperature)
    return exponentials / exponentials.sum()
