"""Weighting: the contract between the Gramian and the weights."""

import abc
import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moopt.records.result import Array, Solved, SolverResult, State
from moopt.records.step_statistics import StepStatistics
from moopt.weightings.cleared import Step, weigh_cleared
from moopt.weightings.problem import EPS, Problem


class Guarantee(enum.Enum):
    """What a weighting promises for every Gramian; the conformance suite tests each claim.

    Rescaling an objective rescales its gradient and its loss alike. The columns are those of the
    tables in `docs/methods.md`.

    Example:
        >>> from moopt.weightings import MGDA, Guarantee
        >>> Guarantee.NON_CONFLICTING in MGDA().guarantees
        True
    """

    NON_CONFLICTING = "non-conflicting"
    """(G w)_i >= 0 for every active i, up to rounding; column *descent*, ✓."""
    NON_CONFLICTING_IF_INDEPENDENT = "non-conflicting for linearly independent gradients"
    """The same for every Gramian of linearly independent rows; other rows may break it, visibly;
    column *descent*, (✓)."""
    SIMPLEX = "simplex"
    """w >= 0 and sum(w) = 1 over the active objectives; column *simplex*."""
    SCALE_EQUIVARIANT = "scale-equivariant"
    """The direction does not turn when one objective is rescaled; column *any scale*."""
    POSITIVELY_HOMOGENEOUS = "positively homogeneous"
    """d(c J) = c d(J) for c > 0; column *homog.*"""
    PERMUTATION_EQUIVARIANT = "permutation-equivariant"
    """The order of the objectives does not change the direction; column *any order*."""
    ZERO_AT_STATIONARITY = "zero at stationarity"
    """d = 0 where zero is in the convex hull of the gradients; column *stops*."""
    IDEMPOTENT = "idempotent"
    """d = g where every gradient is the same g; implied by SIMPLEX; column *idemp.*"""


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


@dataclasses.dataclass(frozen=True)
class StateEntry:
    """One array that a method keeps from step to step.

    Attributes:
        axes: how many leading axes index objectives: 0 shared by all, 1 one entry each, 2 one per
            pair. By them the optimizer keeps each entry with its objective while objectives come
            and go.
        start: its value before the first step, or a function of the number of objectives.
        dtype: of its elements.

    Example:
        >>> from moopt.weightings import StateEntry
        >>> StateEntry(1, lambda m: 1 / m).array(2).tolist()
        [0.5, 0.5]
    """

    axes: int
    start: float | Callable[[int], float] = 0.0
    dtype: type = float

    def array(self, num_objectives: int) -> NDArray[Any]:
        """The array before the first step, for so many objectives."""
        start = self.start(num_objectives) if callable(self.start) else self.start
        return np.full((num_objectives,) * self.axes, start, dtype=self.dtype)


class Weighting(abc.ABC):
    """A map from the Gramian of a step to weights: one formula, `weigh`, on a clean problem.

    Subclasses are frozen keyword-only dataclasses whose fields are the hyper-parameters. They
    see neither a parameter nor trouble: `moopt.weightings.cleared` leaves out objectives that are
    inactive, zero or not finite before, and puts the weights back in place after. An instance can
    be called by hand, `weighting(StepStatistics(gramian=G))`.

    Class attributes:
        name: the registered name.
        source: authors, title, venue, year.
        year: of the publication; None where there is no single origin.
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

    name: ClassVar[str]
    source: ClassVar[str]
    year: ClassVar[int | None] = None
    reads_gradients: ClassVar[bool] = True
    sees_zero_gradients: ClassVar[bool] = False
    example: ClassVar[Mapping[str, Any]] = {}

    @property
    @abc.abstractmethod
    def guarantees(self) -> frozenset[Guarantee]:
        """The promises that hold under the configured hyper-parameters."""

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        """The optional fields of a step that this configuration cannot do without."""
        return frozenset()

    @property
    def combines_auxiliary(self) -> bool:
        """Whether auxiliary rows get weights other than 0: the direction is then theirs too."""
        return False

    def reads_auxiliary(self, name: str) -> bool:
        """Whether the auxiliary row of this name is looked at, for methods that need such rows."""
        return True

    @functools.cached_property
    def state_entries(self) -> Mapping[str, StateEntry]:
        """What is kept from step to step; empty for stateless methods."""
        return {}

    def weigh(self, problem: Problem, state: State) -> Array | Solved:
        """The weights of one step, float64 `[m]`, and whatever else a `Solved` tells.

        Args:
            problem: the step, cleared of trouble; m >= 1.
            state: what the last step returned, for the objectives of `problem`; not to be written
                to. Return the next one in `Solved.state`.
        """
        refuse_old_contract(self)
        raise AssertionError("unreachable: without `weigh` the line above raises")

    def unweighed(self, state: State) -> State:
        """The state after a step that could not be weighed, for NaN or an empty domain."""
        return state

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
    def state_axes(self) -> Mapping[str, int]:
        """Leading objective axes of each entry of the state; empty for stateless methods."""
        return {key: entry.axes for key, entry in self.state_entries.items()}

    @property
    def claims_common_descent(self) -> bool:
        """Whether a step that fails the descent check breaks a promise, and must be replaced."""
        return bool(
            self.guarantees & {Guarantee.NON_CONFLICTING, Guarantee.NON_CONFLICTING_IF_INDEPENDENT}
        )

    @property
    def stops_at_zero_gradients(self) -> bool:
        """Whether a zero gradient, which makes the point stationary, makes the direction zero."""
        return Guarantee.ZERO_AT_STATIONARITY in self.guarantees

    def initial_state(
        self, num_objectives: int, device: torch.device | None = None
    ) -> dict[str, Tensor]:
        """The state before the first step: a flat dict of tensors; empty for stateless methods."""
        entries = self.state_entries.items()
        return {k: torch.from_numpy(e.array(num_objectives)).to(device) for k, e in entries}

    def __call__(
        self, statistics: StepStatistics, state: Mapping[str, Tensor] | None = None
    ) -> WeightingOutput:
        """The weights for one step by hand; `state=None` means `initial_state`."""
        gramian, m = statistics.gramian.detach(), statistics.num_objectives
        arrays = _arrays(self.initial_state(m) if state is None else state)
        device, batch = gramian.device, gramian.shape[:-2]
        wide = gramian.to("cpu", torch.float64).numpy().reshape(-1, *gramian.shape[-2:])
        masks = _masks(statistics, len(wide))
        losses = _losses(statistics, len(wide))
        noise = _noise(gramian.dtype) if statistics.noise is None else statistics.noise
        axes = self.state_axes
        states = _states(arrays, axes, len(wide))
        answers = [
            weigh_cleared(
                self,
                Step(
                    gramian=one,
                    active=mask,
                    losses=loss,
                    names=statistics.names,
                    auxiliary=statistics.auxiliary,
                    noise=noise,
                    lr=statistics.lr,
                    step=statistics.step,
                ),
                own,
            )
            for one, mask, loss, own in zip(wide, masks, losses, states, strict=True)
        ]

        def joined(values: list[Any], shape: tuple[int, ...] = ()) -> Tensor:
            return torch.from_numpy(np.array(values).reshape((*batch, *shape))).to(device)

        weights = joined([a.weights for a in answers], (gramian.shape[-1],))
        result = None
        if any(a.status is not None for a in answers):
            result = SolverResult(
                weights[..., :m],
                joined([int(a.status or 0) for a in answers]),
                joined([float(a.gap) for a in answers]),
                joined([int(a.num_iter) for a in answers]),
            )
        kept = {
            key: joined(
                [(a.state or {})[key] for a in answers], value.shape[value.ndim - axes[key] :]
            )
            for key, value in arrays.items()
        }
        return WeightingOutput(weights, kept, result)

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
        following = self.learn(_arrays(state), after, names)
        return {k: torch.from_numpy(np.array(v)).to(state[k].device) for k, v in following.items()}


class OldContractError(TypeError):
    """A method written for the contract before `weigh`, or one that defines nothing."""


def refuse_old_contract(method: Weighting) -> None:
    """Raise where a method does not define `weigh`, as methods of earlier versions do not.

    Raises:
        OldContractError: says what the new form is.
    """
    if type(method).weigh is Weighting.weigh:
        raise OldContractError(
            f"{type(method).__name__} must define `weigh(self, problem, state)`; `__call__` with"
            " StepStatistics, masks and padding was the contract of an earlier version. For"
            " instance: def weigh(self, problem, state): return problem.share / problem.norms."
            " `problem` is a moopt.weightings.Problem: clean numpy cosines [m, m], norms [m],"
            " losses. What is kept from step to step goes into `state_entries`. See"
            " docs/adding_a_method."
        )


def _arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {key: value.detach().cpu().numpy() for key, value in state.items()}


def _states(state: State, axes: Mapping[str, int], count: int) -> list[State]:
    """The state of each member of a batch; an entry without leading dimensions is that of all."""
    members = {
        key: value.reshape(-1, *value.shape[value.ndim - axes[key] :])
        for key, value in state.items()
        if value.ndim > axes[key]
    }
    return [{**state, **{key: each[i] for key, each in members.items()}} for i in range(count)]


def _noise(dtype: torch.dtype) -> float:
    """A lower bound of the rounding of a Gramian of this dtype."""
    return max(EPS, float(torch.finfo(dtype).eps))


def _masks(statistics: StepStatistics, count: int) -> NDArray[np.bool_]:
    m, active = statistics.num_objectives, statistics.active
    if active is None:
        return np.ones((count, m), dtype=bool)
    if active.dtype != torch.bool or active.shape[-1:] != (m,):
        raise ValueError(
            f"`active` of `StepStatistics` must be a bool tensor of shape [..., {m}]; got"
            f" {active.dtype} of shape {list(active.shape)}. Pass one flag per objective."
        )
    whole: NDArray[np.bool_] = active.cpu().expand(*statistics.gramian.shape[:-2], m).numpy()
    return whole.reshape(-1, m)


def _losses(statistics: StepStatistics, count: int) -> list[Array | None]:
    if statistics.losses is None:
        return [None] * count
    losses = statistics.losses.detach().to("cpu", torch.float64)
    m = statistics.num_objectives
    return list(losses.expand(*statistics.gramian.shape[:-2], m).numpy().reshape(-1, m))
