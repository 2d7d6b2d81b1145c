"""weigh_cleared: clear a step of trouble, let a method weigh what is left, and put it back."""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from moopt.records.result import Array, Solved, State
from moopt.records.status import SolverStatus
from moopt.solvers.equilibrated import cosines_of
from moopt.weightings.declared import DeclaredMethod, Guarantee
from moopt.weightings.problem import EPS, Problem

Mask = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """The numbers of one step on the host, trouble included.

    Attributes:
        gramian: float64 `[m + k, m + k]`: inner products of the m gradients, then of the k
            auxiliary rows. None where no gradient was looked at.
        active: bool `[m]`.
        losses: float64 `[m]`, or None.
        names: of the objectives, or None.
        auxiliary: the names of the k rows.
        noise: the rounding of an inner product, relative to the norms of its gradients.
        lr, step: where they are known.
    """

    gramian: Array | None
    active: Mask
    losses: Array | None = None
    names: tuple[str, ...] | None = None
    auxiliary: tuple[str, ...] = ()
    noise: float = EPS
    lr: float | None = None
    step: int | None = None


class Weighs(DeclaredMethod):
    """A method that `weigh_cleared` can ask; `moopt.weightings.Weighting` documents it."""

    reads_gradients: ClassVar[bool] = True
    sees_zero_gradients: ClassVar[bool] = False

    @property
    def stops_at_zero_gradients(self) -> bool:
        """Whether a zero gradient, which makes the point stationary, makes the direction zero."""
        return Guarantee.ZERO_AT_STATIONARITY in self.guarantees

    def reads_auxiliary(self, name: str) -> bool:
        """Whether the auxiliary row of this name is looked at, for methods that need such rows."""
        return True

    @abc.abstractmethod
    def weigh(self, problem: Problem, state: State) -> Array | Solved:
        """The weights, float64 `[m]`, and the next state in a `Solved`.

        Args:
            problem: what is weighed, cleared of trouble; m >= 1.
            state: the present one, not to be written to.
        """

    def unweighed(self, state: State) -> State:
        """The state after a step that could not be weighed, for NaN or an empty domain."""
        return state


def weigh_cleared(method: Weighs, given: Step, state: State) -> Solved:
    """Weigh every row of a step; the method sees the clean part only.

    1. Objectives that are not active get weight 0 and influence nothing.
    2. NaN or infinity in what the method looks at: uniform weights, status NON_FINITE, same state.
    3. A zero gradient gets weight 0; but it makes the point stationary for a method that stops
       there: it then gets all the weight, status DEGENERATE.
    4. The method weighs the rest. Weights that are not finite are replaced by uniform ones, with
       status OUT_OF_DOMAIN and the state as it was.

    Args:
        method: the weighting.
        given: the step.
        state: what the method keeps, aligned with the objectives of `given`.

    Returns:
        float64 weights `[m + k]`, the method's status and gap, and the whole next state.

    Raises:
        ValueError: the method needs what the step does not have.
    """
    with np.errstate(all="ignore"):
        return weigh_and_tell(method, given, state)[0]


def weigh_and_tell(method: Weighs, given: Step, state: State) -> tuple[Solved, Problem | None]:
    """`weigh_cleared`, and the problem that the method saw; None where it saw none.

    Extreme ratios may overflow on the way, and what comes back is judged: callers silence numpy.
    """
    needs = method.needs
    _refuse_missing(method, given, needs)
    m, k = len(given.active), len(given.auxiliary)
    on = given.active
    num_active = int(np.count_nonzero(on))
    weights = np.zeros(m + k)
    if num_active == 0:
        return Solved(weights, SolverStatus.DEGENERATE, state=state), None
    if not _is_finite(method, given, needs):
        weights[:m][on] = 1.0 / num_active
        return Solved(weights, SolverStatus.NON_FINITE, state=method.unweighed(state)), None
    live = on
    if method.reads_gradients and not method.sees_zero_gradients:
        assert given.gramian is not None
        live = on & (given.gramian.diagonal()[:m] > 0.0)
        zeros = num_active - int(np.count_nonzero(live))
        if zeros and (zeros == num_active or method.stops_at_zero_gradients):
            weights[:m][on & ~live] = 1.0 / zeros
            return Solved(weights, SolverStatus.DEGENERATE, 0.0, state=state), None
    everything = bool(live.all())
    index = np.arange(m) if everything else live.nonzero()[0]
    part = state if everything else restricted(state, method.state_axes, index)
    problem = _problem(method, given, index, num_active, needs)
    answer = method.weigh(problem, part)
    solved = answer if isinstance(answer, Solved) else Solved(answer)
    _refuse_other_than_weights(method, solved.weights, len(index), k)
    if not np.isfinite(solved.weights).all():
        weights[index] = 1.0 / len(index)
        status = SolverStatus.OUT_OF_DOMAIN
        return Solved(weights, status, state=method.unweighed(state)), problem
    weights[index] = solved.weights[: len(index)]
    weights[m:] = solved.weights[len(index) :] if len(solved.weights) > len(index) else 0.0
    next_state = state if solved.state is None else solved.state
    if not everything and solved.state is not None:
        next_state = merged(state, solved.state, method.state_axes, index)
    return solved._replace(weights=weights, state=next_state), problem


def restricted(state: State, axes: Mapping[str, int], index: NDArray[np.intp]) -> State:
    """The part of a state that belongs to the objectives at `index`."""
    return {
        key: value[np.ix_(*[index] * axes[key])] if axes[key] else value
        for key, value in state.items()
    }


def merged(whole: State, part: State, axes: Mapping[str, int], index: NDArray[np.intp]) -> State:
    """`whole` with the entries of the objectives at `index` taken from `part`."""
    out = {}
    for key, value in whole.items():
        if axes[key]:
            value = np.array(value)
            value[np.ix_(*[index] * axes[key])] = part[key]
        else:
            value = part[key]
        out[key] = value
    return out


def _problem(
    method: Weighs,
    given: Step,
    index: NDArray[np.intp],
    num_active: int,
    needs: frozenset[str],
) -> Problem:
    m, names = len(given.active), given.names
    known: dict[str, Any] = {}
    if "auxiliary" in needs and given.gramian is not None:
        rows = np.concatenate([index, np.arange(m, len(given.gramian))])
        known = {"wide": given.gramian[np.ix_(rows, rows)], "auxiliary": given.auxiliary}
    if method.reads_gradients:
        assert given.gramian is not None
        whole = len(index) == len(given.gramian)
        gramian = given.gramian if whole else given.gramian[np.ix_(index, index)]
        norms = np.sqrt(gramian.diagonal())
        cosines = cosines_of(gramian, norms)
    else:
        norms, cosines = np.full(len(index), math.nan), np.full((len(index),) * 2, math.nan)
    return Problem(
        cosines=cosines,
        norms=norms,
        losses=given.losses[index] if given.losses is not None and "losses" in needs else None,
        names=names if names is None or len(index) == m else tuple(names[i] for i in index),
        positions=index,
        num_objectives=m,
        num_active=num_active,
        noise=given.noise,
        all_names=names,
        lr=given.lr,
        step=given.step,
        **known,
    )


def _is_finite(method: Weighs, given: Step, needs: frozenset[str]) -> bool:
    """Whether all that the method looks at is finite, among the active rows."""
    on = given.active
    if "losses" in needs and not np.isfinite(given.losses[on]).all():  # type: ignore[index]
        return False
    if not method.reads_gradients:
        return True
    assert given.gramian is not None
    # A difference with itself is 0 unless the sum overflowed or an entry is not finite.
    total = np.add.reduce(given.gramian, axis=None)
    if total - total == 0.0:
        return True
    m = len(on)
    rows = on.nonzero()[0]
    if "auxiliary" in needs:
        read = [m + k for k, name in enumerate(given.auxiliary) if method.reads_auxiliary(name)]
        rows = np.concatenate([rows, np.array(read, dtype=np.intp)])
    return bool(np.isfinite(given.gramian[np.ix_(rows, rows)]).all())


def _refuse_other_than_weights(method: Weighs, weights: object, m: int, k: int) -> None:
    if (
        isinstance(weights, np.ndarray)
        and weights.dtype == np.float64
        and weights.shape in ((m,), (m + k,))
    ):
        return
    got = (
        f"{weights.dtype} of shape {weights.shape}"
        if isinstance(weights, np.ndarray)
        else repr(weights)
    )
    raise TypeError(
        f"`weigh` of {method.name} must return numpy float64 weights of shape ({m},), one for each"
        f" objective of the problem, or a Solved with them; got {got}."
    )


def _refuse_missing(method: Weighs, given: Step, needs: frozenset[str]) -> None:
    if given.losses is None and "losses" in needs:
        raise ValueError(
            f"`{method.name}` as configured needs the losses; got none. Pass them:"
            " optimizer.backward(losses), or `StepStatistics.losses` by hand."
        )
    if given.names is None and "names" in needs:
        raise ValueError(
            f"`{method.name}` as configured needs the objectives' names; got none. Pass the losses"
            " as a mapping from name to loss."
        )
