"""TrackingAggregator: methods that keep a row per objective from step to step."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moopt.aggregators.base import GradientAggregator
from moopt.records.result import Array, State
from moopt.weightings.cleared import Weighs
from moopt.weightings.problem import Problem

NUM_STEPS = "num_steps"
"""The key of the state under which the gradients that went into each row are counted."""


class TrackingAggregator(GradientAggregator, Weighs):
    """Weights of rows that are kept from step to step, such as averages of the gradients.

    Beside its small state it keeps one number for each objective and parameter entry, the rows
    `t_1 ... t_m`: m times the memory of the parameters, in float32 at least. In a step

    1. `t_i <- t_i + a_i (c_i g_i - t_i)`, a moving average of the gradients with a share a_i and a
       factor c_i for each objective (`share`, `factors`), or another rule (`follow`);
    2. the weights w are made of the rows' Gramian, as those of any weighting (`weigh`);
    3. `d = sum_i w_i t_i`.

    The rows lie where the parameters lie, and in the optimizer's state dict. An objective that is
    inactive or absent keeps its row; one that joins late starts with zeros. A step whose gradients
    are not finite changes no row and no state, and its direction is NaN. (A distributed checkpoint
    with `flatten_optimizer_state_dict=True` writes each row once per parameter: leave it False.)

    A state with the entry `NUM_STEPS` has it counted: it holds how many gradients went into each
    row, that of the present step included.

    Class attributes:
        row_name: what a row is, in the keys of the state dict.
        combines_gradients: the direction is `sum_i w_i c_i g_i`, of the step's gradients.
        combines_absent: whether the rows of objectives that are absent from a step take part in
            its direction. Then `weigh` sees every objective that was ever given whose row is above
            the noise floor; every parameter counts as shared; and a step with a single objective
            is one like any other.
        reads_gradients, sees_zero_gradients: as for a `Weighting`, of the rows.

    Example:
        >>> from moopt.aggregators import MoCo
        >>> MoCo.row_name, MoCo.combines_absent
        ('average', False)
    """

    row_name: ClassVar[str]
    combines_gradients: ClassVar[bool] = False
    combines_absent: ClassVar[bool] = False

    def factors(self, problem: Problem) -> Array:
        """c, float64 `[m]`: what each gradient is multiplied by before its row follows it.

        Args:
            problem: of the step's own gradients, those that are zero included.
        """
        return np.ones(problem.m)

    def share(self, problem: Problem, state: State) -> Array | float:
        """a, float64 `[m]` or one number: the share of this step's gradient in an average.

        Args:
            problem: as for `factors`.
            state: the present one, for the objectives of `problem`.
        """
        return 1.0

    def follow(self, rows: Tensor, gradients: Tensor, problem: Problem, state: State) -> Tensor:
        """The rows after this step, of one parameter.

        Args:
            rows: `[m, ...]`, those so far; not to be written to.
            gradients: `[m, ...]`, `c_i g_i` in the rows' dtype.
            problem, state: as for `share`.
        """
        share = np.asarray(self.share(problem, state), dtype=np.float64)
        column = torch.from_numpy(share.reshape(-1, *[1] * (rows.ndim - 1)))
        return torch.lerp(rows, gradients, column.to(rows))

    def compared(self, rows: Tensor, gradients: Tensor) -> Tensor:
        """The rows `[m, ...]` of whose Gramian the weights are made, of one parameter.

        Args:
            rows: as `follow` returned them, and what is compared unless a method says otherwise.
            gradients: as for `follow`.
        """
        return rows


def decayed(value: float, decay: float, problem: Problem) -> float:
    """`value / k^decay` in step k = 1, 2, ..."""
    return value / (1 + (problem.step or 0)) ** decay
