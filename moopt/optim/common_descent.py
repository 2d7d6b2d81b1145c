"""CommonDescent: a torch optimizer that takes one step for several losses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moopt.aggregators.base import Method
from moopt.optim.closure import weighted_closure
from moopt.optim.combining_optimizer import CombiningOptimizer
from moopt.optim.resolve_method import resolve_weighting
from moopt.optim.unrecorded_step import note_bypass
from moopt.records.step_record import StepRecord
from moopt.settings.numbers import check_number
from moopt.step.differentiate import ids_of
from moopt.step.method_state import is_stateful, refuse_other_state, refuse_unknown, roster_of
from moopt.step.objectives import Losses, loss_value
from moopt.step.observe import observe_
from moopt.step.weigh import DEFAULT_INACTIVE_TOL

if TYPE_CHECKING:
    from torch.amp import GradScaler


class CommonDescent(CombiningOptimizer):
    """Several losses, one step: a common descent direction for any optimizer.

    Each step solves, over the objectives' gradients `g_1 ... g_m`, the weighting's problem on
    their Gramian `G_ij = g_i . g_j`, and hands `d = sum_i w_i g_i` to the wrapped optimizer as
    `.grad`. For a weighting that guarantees common descent, `g_i . d >= 0` for every active
    objective: to first order and on this batch, a small enough step along `-d` raises none of
    them. The wrapped optimizer's momentum, preconditioner and decay act on `d` as on any gradient.

    There are three ways in and one way through:

    - `backward(losses)`, then `step()`;
    - `with optimizer.objective(name): loss.backward()` for each, then `combine_()` and `step()`;
    - `step(closure)`; the closure returns the losses and calls no backward.

    With a scalarization (`moopt.scalarizations`: a function of the losses alone) the first and the
    last take a single backward pass, of `sum_i w_i loss_i` over every parameter.

    Args:
        optimizer: any optimizer instance; its parameter groups, state and defaults are this
            object's too.
        weighting: a weighting, scalarization or gradient aggregator, an instance or its registered
            name; None is the default method.
        shared: the parameters whose gradients enter the Gramian. Default: in each step, those that
            at least two objectives reach. All others (task heads) take the sum of their gradients
            unweighted; a scalarization weighs them all.
        objectives: the objectives' names, if known: allocates a stateful weighting's state at
            once, which distributed checkpointing needs.
        inactive_tol: objectives with `||g_i|| <= inactive_tol * max_j ||g_j||` get weight 0 in
            that step and are named in the record; 0 disables the rule.
        record_every: build a record in every k-th step only. With `Sum()` the steps between need
            one backward pass in all.
        check_replicas: in a process group, compare the processes' gradients in the first steps of
            each set of objectives and in every 100th, and raise where they differ; and average the
            losses of a method that looks at them. False for processes that train different models.

    Raises:
        TypeError: `optimizer` is not a torch optimizer instance, or `weighting` not a weighting.
        ValueError: a value out of range, or a parameter in `shared` that is not the optimizer's.

    Numerics:
        The Gramian accumulates in float64 whatever the gradients' dtype. A step reads each
        gradient twice and writes the direction into the memory of the first: peak extra memory is
        the m gradients. Nothing reads a value back from the device inside a step. With a single
        objective the step is bit for bit the wrapped optimizer's, whatever the weighting (but for
        `MConFIG`, which remembers the others).

    Example:
        >>> import torch, moopt
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = moopt.CommonDescent(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> out = model(torch.ones(1, 2))
        >>> record = optimizer.backward({"a": out[0, 0] ** 2, "b": (out.sum() - 1) ** 2})
        >>> optimizer.step()
        >>> record.names
        ('a', 'b')

    Source: Desideri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", C. R. Acad. Sci. Paris, 2012; each weighting names its own.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weighting: Method | str | None = None,
        *,
        shared: Iterable[Tensor] | None = None,
        objectives: Iterable[str] | None = None,
        inactive_tol: float = DEFAULT_INACTIVE_TOL,
        record_every: int = 1,
        check_replicas: bool = True,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, CommonDescent):
            raise TypeError(
                "`optimizer` of CommonDescent must be an instance of a torch optimizer; got"
                f" {optimizer!r}. Pass for instance torch.optim.AdamW(model.parameters())."
            )
        check_number("CommonDescent", "inactive_tol", inactive_tol, "in [0, 1)", use="1e-5")
        if not isinstance(record_every, int) or record_every < 1:
            raise ValueError(f"`record_every` must be an int >= 1; got {record_every!r}. Use 1.")
        self.__setstate__(
            {
                "optimizer": optimizer,
                "weighting": resolve_weighting(weighting),
                "shared": None if shared is None else list(shared),
                "objectives": None if objectives is None else roster_of(objectives),
                "inactive_tol": float(inactive_tol),
                "record_every": record_every,
                "check_replicas": bool(check_replicas),
            }
        )
        if self.shared is not None:
            ids_of(self.shared, self._parameters())
        self._allocate_state()

    def __repr__(self) -> str:
        # Not torch's, which prints every entry of a group: ours may be as large as the model.
        groups = "; ".join(
            ", ".join(f"{k}={v}" for k, v in group.items() if k != "params" and k[:6] != "moopt_")
            for group in self.param_groups
        )
        optimizer = f"{type(self.optimizer).__name__}({groups})"
        return f"CommonDescent({optimizer}, weighting={self.weighting!r})"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a state dict of the wrapped optimizer alone."""
        super().load_state_dict(state_dict)
        self._progress.drop_rows()
        if is_stateful(self.weighting):
            refuse_other_state(self.param_groups[0], self.weighting)
        self._allocate_state()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear `.grad`, and drop rows that were recorded and not yet combined."""
        self._progress.drop_rows()
        self.optimizer.zero_grad(set_to_none=set_to_none)

    @property
    def record(self) -> StepRecord:
        """The last `StepRecord`; an empty one before the first step."""
        self._progress.record.bypassed = self._progress.bypassed
        return self._progress.record

    def backward(
        self,
        losses: Losses,
        *,
        samples: Sequence[Losses] = (),
        scaler: GradScaler | None = None,
        accumulate: bool = False,
    ) -> StepRecord | None:
        """Differentiate every loss, combine, and leave the direction in `.grad`.

        Args:
            losses: mapping name -> scalar, sequence of scalars or 1-D tensor, *unscaled*.
            samples: the same losses on further independent batches, for methods such as `MoDo`:
                one auxiliary row and one more backward pass each.
            scaler: a GradScaler. The passes run scaled and `.grad` carries the scale; the weights
                are those without a scaler.
            accumulate: only add to the objectives' rows (a micro-batch); the last call without it
                combines all. A scalarization then takes one pass per objective too, because the
                weights of the summed losses are known only at the end.

        Returns:
            The step's record (the last one in steps that `record_every` skips); None with
            `accumulate=True`.

        Raises:
            TypeError, ValueError: malformed losses.
            RuntimeError: the previous direction was not used by `step()`, or a backward failed.
        """
        self._progress.refuse_second_direction(self._parameters())
        names, values = self._named(losses)
        alone = not samples and not accumulate
        if alone and self._single_backward(names, values, scaler) is not None:
            return self.record
        self._record_losses(names, values, scaler, samples)
        return None if accumulate else self.combine_(scaler=scaler)

    @contextlib.contextmanager
    def objective(self, name: str, loss: Tensor | None = None) -> Iterator[None]:
        """Record what a backward pass inside the block leaves in `.grad` as one objective's row.

        Rows of one name add up, so micro-batches need nothing more. Lowest memory: the graph of
        one objective can be freed before the next is built.

        Args:
            name: the objective.
            loss: its unscaled value, for the record and for weightings that need losses; values of
                several micro-batches add up.

        Raises:
            RuntimeError: no gradient arrived, blocks are nested, or a direction waits for `step()`.
            TypeError, ValueError: `name` is not a string, or `loss` not a real scalar.
        """
        refuse_unknown((name,), self.objectives)
        value = None if loss is None else loss_value(name, loss)
        with self._captured(name):
            yield
        if value is None:
            self._progress.losses.setdefault(name, None)
        else:
            self._progress.add_loss(name, value)

    @contextlib.contextmanager
    def auxiliary(self, name: str) -> Iterator[None]:
        """Record what the block leaves in `.grad` as a row that is no objective.

        For methods that compare the objectives with other vectors: another batch's gradient
        (`MoDo`; see `moopt.sample_name`), or the drift from the original parameters
        (`OrthogonalSteepestDescent`): write `p.grad = p.detach() - original` in the block. Under
        a GradScaler the rows of losses carry its factor, and so must these.

        Args:
            name: the method looks for the row by it; not the name of an objective.

        Raises:
            RuntimeError: no gradient arrived, blocks are nested, or a direction waits for `step()`.
            ValueError: an objective has that name; at `combine_`, if the method uses no such rows.
        """
        with self._captured(name, auxiliary=True):
            yield

    def combine_(self, *, scaler: GradScaler | None = None) -> StepRecord:
        """Combine the recorded rows into one direction, and add it to `.grad`.

        Args:
            scaler: the GradScaler whose factor the rows carry, if their losses were scaled.

        Raises:
            RuntimeError: no row was recorded.
            ValueError: the weighting needs losses and one is missing.
        """
        self._combine(scaler)
        return self.record

    def observe(self, losses: Losses) -> None:
        """Show a weighting such as `FAMO` what the step did; call it after `step()`.

        Args:
            losses: those of the same batch and names as in `backward`, computed again; no graph
                is needed.

        Raises:
            TypeError: the weighting does not learn from them.
            ValueError: malformed losses, or an objective that was not in the last step.
        """
        observe_(
            losses,
            self.weighting,
            self.param_groups[0],
            self._progress.stepped,
            replicas=self.check_replicas,
        )
        self._progress.unobserved = 0

    def step(self, closure: Callable[[], Losses] | None = None) -> Any:  # type: ignore[override]
        """Take the wrapped optimizer's step along the direction in `.grad`.

        Args:
            closure: returns the losses and calls no backward; this method zeroes and
                differentiates. An optimizer that evaluates it several times in a step (LBFGS)
                minimises `sum_i w_i loss_i` with the weights of the first evaluation.

        Returns:
            What the wrapped optimizer returns: None, or with a closure `sum_i w_i loss_i`.

        Raises:
            RuntimeError: rows were recorded and never combined.
        """
        progress = self._progress
        if len(progress.store):
            waiting = (*progress.store.rows, *progress.store.auxiliary)
            raise RuntimeError(
                f"step() found rows of {', '.join(map(repr, waiting))} that were never combined;"
                " call optimizer.combine_() first (before clipping), or backward(...)"
                " without accumulate=True."
            )
        if closure is not None:
            evaluate = weighted_closure(
                closure,
                zero_grad=self.zero_grad,
                combine=self._combine_losses,
                combine_again=self._combine_with,
            )
            result: Any = self.optimizer.step(evaluate)  # type: ignore[arg-type]
        else:
            if not progress.combined:
                note_bypass(progress, self.param_groups, self._parameters(), self.weighting)
            result = self.optimizer.step()
        progress.combined = False
        return result
