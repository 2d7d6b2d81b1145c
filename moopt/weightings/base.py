"""Weighting: the contract between the Gramian and the weights."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.records.device_point import DevicePoint
from moopt.records.result import Array, Solved, SolverResult, State
from moopt.records.step_statistics import StepStatistics
from moopt.weightings.cleared import Step, Weighs, weigh_cleared
from moopt.weightings.declared import Guarantee
from moopt.weightings.declared import StateEntry as StateEntry
from moopt.weightings.problem import EPS, Problem


class WeightingOutput(NamedTuple):
    """What a weighting returns.

    Attributes:
        weights: float64 `[..., m]`; the direction is `sum_i weights[i] * gradient[i]`.
        state: the next state, a flat dict of tensors (empty for stateless methods).
        result: the solver's certificate, or None for methods without a solver.

    Example:
        >>> import torch, moopt
        >>> G = torch.eye(2, dtype=torch.float64)
        >>> output = moopt.Mean()(moopt.StepStatistics(gramian=G), state=None)
        >>> output.weights.tolist(), output.state, output.result
        ([0.5, 0.5], {}, None)
    """

    weights: Tensor
    state: dict[str, Tensor]
    result: SolverResult | None


class Weighting(Weighs):
    """A map from the Gramian of a step to weights: one formula, `weigh`, on a clean problem.

    Subclasses are frozen keyword-only dataclasses whose fields are the hyper-parameters. They
    see neither a parameter nor trouble: `moopt.weightings.cleared` leaves out objectives that are
    inactive, zero or not finite before, and puts the weights back in place after. An instance can
    be called by hand, `weighting(StepStatistics(gramian=G))`.

    Class attributes:
        name: the registered name, which is that of the class.
        source: authors, title, venue, year, and how the class differs: the section of this name in
            its docstring ("" under `python -OO`, which drops docstrings).
        year: of the publication, the first in `source`; None where there is no single origin.
        reads_gradients: False for methods whose weights do not depend on the Gramian: they see
            every active objective, whatever its gradient.
        sees_zero_gradients: True for methods to which a zero gradient is like any other.
        example: settings without a default, each with an example for three objectives named
            "forget", "retain" and "third".

    Properties:
        guarantees: the promises under the configured hyper-parameters; see `Guarantee`.
        needs: which optional fields of the step must be present ("losses", "names", "auxiliary").
        combines_auxiliary: whether auxiliary rows take part in the direction.
        state_entries: what the method keeps from step to step, by key; see `StateEntry`.
        observes: whether it learns from the losses after the update; see `observe`.

    Example:
        >>> import torch, moopt
        >>> G = torch.tensor([[1.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
        >>> moopt.MGDA()(moopt.StepStatistics(gramian=G)).weights.tolist()
        [0.8, 0.2]
    """

    @property
    def combines_auxiliary(self) -> bool:
        """Whether auxiliary rows get weights other than 0: the direction is then theirs too."""
        return False

    @property
    def device_point(self) -> DevicePoint | None:
        """What a step without readback solves for; None: the host weighs the objectives."""
        return None

    @classmethod
    def _is_base(cls) -> bool:
        return super()._is_base() or cls.weigh is Weighting.weigh

    def weigh(self, problem: Problem, state: State) -> Array | Solved:
        """The weights of one step, float64 `[m]`, and whatever else a `Solved` tells.

        Args:
            problem: the step, cleared of trouble; m >= 1.
            state: what the last step returned, for the objectives of `problem`; not to be written
                to. Return the next one in `Solved.state`.
        """
        refuse_old_contract(self)
        raise AssertionError("unreachable: without `weigh` the line above raises")

    def learn(self, state: State, losses_after: Array, names: Sequence[str] | None) -> State:
        """The next state, given the losses of the same batch after the update.

        Only for methods with `observes`; arguments as for `observe`, in arrays.
        """
        raise TypeError(
            f"{type(self).__name__} does not look at the losses after the update; leave"
            " observe(...) out, or use a method that does, such as FAMO."
        )

    @functools.cached_property
    def observes(self) -> bool:
        """Whether the method learns from the losses after the update, by `observe`."""
        return type(self).learn is not Weighting.learn

    @property
    def claims_common_descent(self) -> bool:
        """Whether a step that fails the descent check breaks a promise, and must be replaced."""
        return bool(
            self.guarantees & {Guarantee.NON_CONFLICTING, Guarantee.NON_CONFLICTING_IF_INDEPENDENT}
        )

    def __call__(
        self, statistics: StepStatistics, state: Mapping[str, Tensor] | None = None
    ) -> WeightingOutput:
        """The weights for one step by hand; `state=None` means `initial_state`."""
        gramian, m = statistics.gramian, statistics.num_objectives
        batch, device, axes = gramian.shape[:-2], gramian.device, self.state_axes
        wide = _array(gramian, gramian.shape, torch.float64)
        active, losses = _active(statistics), None
        if statistics.losses is not None:
            losses = _array(statistics.losses, (*batch, m), torch.float64)
        noise = statistics.noise
        if noise is None:
            noise = max(EPS, float(torch.finfo(gramian.dtype).eps))
        kept = {
            key: _array(value, (*batch, *value.shape[value.ndim - axes[key] :]))
            for key, value in (self.initial_state(m) if state is None else state).items()
        }
        answers = [
            weigh_cleared(
                self,
                Step(
                    gramian=wide[i],
                    active=active[i],
                    losses=None if losses is None else losses[i],
                    names=statistics.names,
                    auxiliary=statistics.auxiliary,
                    noise=noise,
                    lr=statistics.lr,
                    step=statistics.step,
                ),
                {key: np.asarray(value[i]) for key, value in kept.items()},
            )
            for i in itertools.product(*map(range, batch))
        ]

        def joined(values: list[Any], *own: int) -> Tensor:
            return torch.from_numpy(np.array(values).reshape((*batch, *own))).to(device)

        weights = joined([a.weights for a in answers], gramian.shape[-1])
        result = None
        if any(a.status is not None for a in answers):
            result = SolverResult(
                weights[..., :m],
                joined([int(a.status or 0) for a in answers]),
                joined([float(a.gap) for a in answers]),
                joined([int(a.num_iter) for a in answers]),
            )
        next_state = {
            key: joined([(a.state or {})[key] for a in answers], *value.shape[len(batch) :])
            for key, value in kept.items()
        }
        return WeightingOutput(weights, next_state, result)

    def observe(
        self,
        state: Mapping[str, Tensor],
        losses_after: Tensor,
        *,
        names: tuple[str, ...] | None = None,
    ) -> dict[str, Tensor]:
        """The next state, given the losses of the same batch after the update.

        Args:
            state: as the last call returned it, aligned with `losses_after`.
            losses_after: float64 `[m]`, unscaled.
            names: the `m` objective names.

        Raises:
            TypeError: the method does not learn from them (`observes` is False).
        """
        after = losses_after.detach().to("cpu", torch.float64).numpy()
        arrays = {key: _array(value, value.shape) for key, value in state.items()}
        next_state = self.learn(arrays, after, names)
        return {k: torch.from_numpy(np.array(v)).to(state[k].device) for k, v in next_state.items()}


class OldContractError(TypeError):
    """A method written for the contract before `weigh`, or one that defines nothing."""


def refuse_old_contract(method: Weighting) -> None:
    """Raise where a method does not define `weigh`, as methods of earlier versions do not.

    Raises:
        OldContractError: says what the new form is.
    """
    if type(method).weigh is Weighting.weigh:
        raise OldContractError(
            f"{type(method).__name__} must define `weigh(self, problem, state)`, for instance by"
            " `return problem.share / problem.norms`; `__call__` with StepStatistics, masks and"
            " padding was the contract of an earlier version. `problem` is a"
            " moopt.weightings.Problem; what is kept goes into `state_entries`. See"
            " docs/adding_a_method."
        )


def _array(value: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> NDArray[Any]:
    """A tensor on the host, with the leading dimensions of a batch where it lacks them."""
    host = value.detach().to("cpu", dtype)
    return (host if host.shape == shape else host.expand(shape)).numpy()


def _active(statistics: StepStatistics) -> NDArray[np.bool_]:
    shape, active = statistics.gramian.shape[:-2], statistics.active
    m = statistics.num_objectives
    if active is None:
        return np.ones((*shape, m), dtype=bool)
    if active.dtype != torch.bool or active.shape[-1:] != (m,):
        raise ValueError(
            f"`active` of `StepStatistics` must be a bool tensor of shape [..., {m}]; got"
            f" {active.dtype} of shape {list(active.shape)}. Pass one flag per objective."
        )
    return _array(active, (*shape, m))
