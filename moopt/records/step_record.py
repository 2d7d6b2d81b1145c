"""StepRecord: what one step saw and did."""

import dataclasses
import functools
import itertools
import math

import torch
from torch import Tensor

from moopt.records.status import SolverStatus

CONFLICT_TOL = 1e-6
"""A cosine closer to zero than this is the rounding of a float32 gradient, not a conflict."""


def cosine_key(first: str, second: str) -> str:
    """The key of a pair's cosine in `StepRecord.as_dict`.

    Args:
        first, second: names of objectives; a backslash comes before each comma or backslash in a
            name, so that no two pairs share a key.

    Example:
        >>> from moopt.records.step_record import cosine_key
        >>> cosine_key("a", "b")
        'cosine/a,b'
    """
    left, right = (n.replace("\\", "\\\\").replace(",", "\\,") for n in (first, second))
    return f"cosine/{left},{right}"


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


@dataclasses.dataclass(eq=False, frozen=True)
class StepRecord:
    """What one step saw and did, in plain numbers and small CPU tensors that nobody changes.

    Attributes:
        names: the objectives' names, in the order of every `[m]` tensor below.
        losses: float64 `[m]`, unscaled; NaN where the caller passed none.
        weights: float64 `[m]`; the direction on shared parameters is `sum_i w_i g_i`.
        gramian: float64 `[m, m]`, unscaled, over the shared parameters.
        active: bool `[m]`; False where the gradient is at its noise floor, or was left out.
        stationarity: the smallest norm in the convex hull of the active *unit* gradients, in
            [0, 1]: 0 at a Pareto-stationary point, 1 where all gradients point the same way.
            Independent of the scale of every loss.
        status: how the weighting's solver ended; `.explanation` says what to do about it.
        gap: the relative duality gap of the weighting's solver; NaN without one.
        descent: whether the direction lowers (or keeps), to first order and on this batch, every
            active objective: the certificate `G w >= 0` up to rounding.
        fell_back: the weighting promised common descent, failed the check on this step, and was
            replaced by l2-normalised MGDA.
        fallbacks: how often that happened so far.
        left_out: the objectives that were left out of this step because their loss or gradient was
            not finite (`CommonDescent(skip_non_finite=True)`).
        skipped: how many objectives were left out so far.
        bypassed: how many plain `step()` calls ran on gradients that no objective recorded.
        step: the number of combined steps of this object before this one; a resumed run starts
            again at 0 (a state dict is the wrapped optimizer's, and holds no more than it needs).
        measured: whether the objectives' gradients were seen one by one. False for the single
            backward pass of a scalarization: Gramian, norms, cosines and stationarity are then
            NaN, `descent` is False (nothing certifies it), `conflicts` and `raised` raise.
        slopes: float64 `[m]`, `-g_i . d` over the shared parameters: how each loss changes along
            the step `-d`, per unit of learning rate and to first order; negative where it falls.
            Kept where the direction is more than `sum_i w_i g_i`: a gradient aggregator, or
            auxiliary rows with weights of their own. None where it is `-gramian @ weights`.
        rises: bool `[m]`, which active objectives the direction raises beyond rounding, as the
            certificate found. None where none was made.
        weighted: whether there are weights. False for an aggregator that works entry by entry:
            its `weights` are NaN.

    Example:
        >>> import moopt
        >>> str(moopt.StepRecord())
        'no step recorded yet'
    """

    names: tuple[str, ...] = ()
    losses: Tensor = dataclasses.field(default_factory=_nothing)
    weights: Tensor = dataclasses.field(default_factory=_nothing)
    gramian: Tensor = dataclasses.field(default_factory=lambda: _nothing().reshape(0, 0))
    active: Tensor = dataclasses.field(default_factory=lambda: _nothing().bool())
    stationarity: float = math.nan
    status: SolverStatus = SolverStatus.CONVERGED
    gap: float = math.nan
    descent: bool = True
    fell_back: bool = False
    fallbacks: int = 0
    left_out: tuple[str, ...] = ()
    skipped: int = 0
    bypassed: int = 0
    step: int = 0
    measured: bool = True
    slopes: Tensor | None = None
    weighted: bool = True
    rises: Tensor | None = None

    @property
    def norms(self) -> Tensor:
        """float64 `[m]`, the gradient norms `||g_i||` over the shared parameters."""
        return self.gramian.diagonal().clamp_min(0.0).sqrt()

    @property
    def cosines(self) -> Tensor:
        """float64 `[m, m]`, the cosines between gradients; 0 where a gradient is zero."""
        norms = self.norms
        outer = norms[:, None] * norms[None, :]
        # What is not known stays NaN: 0 would read as "no conflict".
        return torch.where(outer == 0, 0.0, self.gramian / outer.where(outer != 0, 1.0))

    @functools.cached_property
    def inactive(self) -> tuple[str, ...]:
        """Names of the objectives at their noise floor in this step (weight 0)."""
        return tuple(n for n, on in zip(self.names, self.active.tolist(), strict=True) if not on)

    @functools.cached_property
    def conflicts(self) -> tuple[tuple[str, str], ...]:
        """Pairs of active objectives whose gradients have a negative cosine, beyond rounding.

        Raises:
            RuntimeError: no step was recorded, or one that saw no gradient of a single objective;
                an empty answer would read as "no conflict".
        """
        if not self.names:
            raise RuntimeError(
                "no step is recorded, so conflicts are unknown; pass the losses to"
                " optimizer.backward(losses) in place of loss.backward()."
            )
        self._refuse_unmeasured("conflicts")
        cosines, active = self.cosines.tolist(), self.active.tolist()
        return tuple(
            (a, b)
            for (i, a), (j, b) in itertools.combinations(enumerate(self.names), 2)
            if active[i] and active[j] and cosines[i][j] < -CONFLICT_TOL
        )

    @functools.cached_property
    def raised(self) -> tuple[str, ...]:
        """Active objectives that the direction raises, to first order and on this batch.

        Empty for a common descent direction; a plain sum has some wherever one loss outweighs a
        conflict with another.

        Raises:
            RuntimeError: the step saw no gradient of a single objective.
        """
        self._refuse_unmeasured("raised")
        if self.descent or not self.names:
            return ()
        rises = self.rises
        if rises is None:
            slopes = -self.gramian @ self.weights if self.slopes is None else self.slopes
            rises = self.active & (slopes > 0)
        return tuple(n for n, up in zip(self.names, rises.tolist(), strict=True) if up)

    @property
    def stationarity_value(self) -> Tensor:
        """`stationarity` as a float64 scalar."""
        return torch.tensor(self.stationarity, dtype=torch.float64)

    @property
    def status_code(self) -> Tensor:
        """The code of `status`, an int64 scalar."""
        return torch.tensor(int(self.status))

    def as_dict(self) -> dict[str, float]:
        """Plain floats for any logger, with keys such as `weight/forget` and `cosine/a,b`.

        `gap` is left out where the weighting has no solver, `weight` where an aggregator has none,
        `slope` (positive where the step raises the loss) where the weights tell it, and what needs
        the gradients of single objectives where the step did not see them (`measured`). `status`
        is the code of a `SolverStatus`. Values that overflowed stay infinite or NaN, so that a
        logger sees them. Before the first step: `bypassed` and `step` only.

        Example:
            >>> import moopt
            >>> moopt.StepRecord().as_dict()["bypassed"]
            0.0
        """
        if not self.names:
            return {"bypassed": float(self.bypassed), "step": float(self.step)}
        out: dict[str, float] = {}
        values = {"loss": self.losses}
        values |= {"norm": self.norms} if self.measured else {}
        values |= {"weight": self.weights} if self.weighted else {}
        values |= {} if self.slopes is None else {"slope": self.slopes}
        for key, entries in values.items():
            out |= {f"{key}/{n}": v for n, v in zip(self.names, entries.tolist(), strict=True)}
        return out | {
            **(self._of_gradients() if self.measured else {}),
            "status": float(self.status),
            **({} if math.isnan(self.gap) else {"gap": self.gap}),
            "fell_back": float(self.fell_back),
            "fallbacks": float(self.fallbacks),
            **{f"left_out/{n}": 1.0 for n in self.left_out},
            **({"skipped": float(self.skipped)} if self.skipped else {}),
            "bypassed": float(self.bypassed),
            "step": float(self.step),
        }

    def _of_gradients(self) -> dict[str, float]:
        """The part of `as_dict` that compares gradients."""
        cosines = self.cosines.tolist()
        pairs = itertools.combinations(enumerate(self.names), 2)
        return {
            **{cosine_key(a, b): cosines[i][j] for (i, a), (j, b) in pairs},
            **{f"inactive/{n}": float(n in self.inactive) for n in self.names},
            **{f"raised/{n}": float(n in self.raised) for n in self.names},
            "stationarity": self.stationarity,
            "conflicts": float(len(self.conflicts)),
            "descent": float(self.descent),
        }

    def _refuse_unmeasured(self, what: str) -> None:
        if not self.measured:
            raise RuntimeError(
                f"`{what}` is unknown: the one backward pass of a scalarization sees no gradient of"
                " an objective. Use optimizer.objective(name, loss) and combine_(), or a weighting."
            )

    def __str__(self) -> str:
        if not self.names:
            return "no step recorded yet"
        what, sign, values = "weight", "", self.weights
        if not self.weighted and self.slopes is not None:
            what, sign, values = "slope", "+", self.slopes
        rows = zip(self.names, self.losses.tolist(), values.tolist(), strict=True)
        parts = [f"{n} loss {loss:.4g} {what} {value:{sign}.3g}" for n, loss, value in rows]
        tail = self._findings() if self.measured else ["one backward pass: conflicts not measured"]
        if self.status is not SolverStatus.CONVERGED:
            tail.append(str(self.status))
        return f"step {self.step}: " + "; ".join(parts) + " | " + "; ".join(tail)

    def _findings(self) -> list[str]:
        """The part of `__str__` that compares gradients."""
        if math.isnan(self.stationarity) and self.status is not SolverStatus.NON_FINITE:
            return ["the losses share no parameter: each took its own gradient"]
        found = [f"stationarity {self.stationarity:.2g}"]
        listed = {
            "conflict": [f"{a}-{b}" for a, b in self.conflicts],
            "inactive": self.inactive,
            "left out, not finite:": self.left_out,
            "raises": self.raised,
        }
        found += [f"{what} {', '.join(names)}" for what, names in listed.items() if names]
        if not self.raised and not self.descent:
            found.append("NOT a common descent direction: the gradients cancel or are not finite")
        if self.fell_back:
            found.append("fell back to l2-normalised MGDA")
        return found
