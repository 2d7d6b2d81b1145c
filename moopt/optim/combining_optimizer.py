"""CombiningOptimizer: from losses or recorded rows to a direction in `.grad`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.aggregators.base import Method
from moopt.gradients import GradientStore, resume_row, set_aside_gradients, take_gradients
from moopt.optim.closure import warn_of_unweighted
from moopt.optim.pending_step import Progress
from moopt.optim.wrapped_optimizer import DelegatingOptimizer
from moopt.records.step_record import StepRecord
from moopt.scalarizations import Scalarization
from moopt.settings.names import sample_name
from moopt.step.differentiate import record_rows, scale_of
from moopt.step.method_state import enrol, is_stateful, refuse_unknown
from moopt.step.objectives import Losses, named_losses
from moopt.step.one_pass import one_pass_is_enough, single_backward_, weighted_backward_
from moopt.step.take_step import combine_rows_, refuse_unused, write_direction_
from moopt.step.tracked_rows import enrol_rows

if TYPE_CHECKING:
    from torch.amp import GradScaler


class CombiningOptimizer(DelegatingOptimizer):
    """What `CommonDescent` does between its public methods and the functions of one step."""

    weighting: Method
    shared: list[Tensor] | None
    objectives: tuple[str, ...] | None
    inactive_tol: float
    record_every: int
    check_replicas: bool
    _progress: Progress

    def __getstate__(self) -> dict[str, Any]:
        kept = (self._progress.step, self._progress.bypassed, self._progress.fallbacks)
        return super().__getstate__() | {"moopt_progress": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        progress = Progress()
        progress.step, progress.bypassed, progress.fallbacks = state.pop(
            "moopt_progress", (0, 0, None)
        )
        # torch's own __setstate__ creates the hook tables, as Optimizer.__init__ would.
        super().__setstate__(state | {"_progress": progress})

    def _allocate_state(self) -> None:
        if self.objectives is not None and is_stateful(self.weighting):
            bank, parameters = self.param_groups[0], self._parameters()
            device = next((p.device for p in parameters), None)
            enrol(bank, self.weighting, self.objectives, device)
            if isinstance(self.weighting, TrackingAggregator):
                tracked = parameters if self.shared is None else self.shared
                enrol_rows(bank, self.weighting, tracked, self._positions(tracked))

    def _positions(self, parameters: Sequence[Tensor]) -> list[int]:
        """The number of each parameter in the order of torch's own state dict."""
        everything = (p for group in self.param_groups for p in group["params"])
        number = {id(p): k for k, p in enumerate(everything)}
        return [number[id(p)] for p in parameters]

    def _shared_ids(self) -> frozenset[int] | None:
        return None if self.shared is None else frozenset(id(p) for p in self.shared)

    def _lr(self) -> float | None:
        lr = self.param_groups[0].get("lr")
        return float(lr) if isinstance(lr, int | float) else None

    def _single_backward(
        self, names: tuple[str, ...], values: list[Tensor], scaler: GradScaler | None = None
    ) -> StepRecord | None:
        """The step where one pass is enough; None where rows are needed."""
        method = self.weighting
        recorded = self._progress.step % self.record_every == 0
        if len(self._progress.store) or not one_pass_is_enough(method, recorded=recorded):
            return None
        record = single_backward_(
            names,
            values,
            method,
            self.param_groups[0],
            self._parameters(),
            scaler=scaler,
            lr=self._lr(),
            step=self._progress.step,
            checked=self._progress.checked if self.check_replicas else None,
        )
        self._progress.publish(record, self.record_every, self.weighting)
        return record

    def _named(self, losses: Losses) -> tuple[tuple[str, ...], list[Tensor]]:
        names, values, named = named_losses(losses)
        self._progress.check_unnamed_length(len(names), named)
        refuse_unknown(names, self.objectives)
        return names, values

    def _record_losses(
        self,
        names: tuple[str, ...],
        values: list[Tensor],
        scaler: GradScaler | None = None,
        samples: Sequence[Losses] = (),
    ) -> None:
        others = self._samples(names, samples)
        with self._progress.dropping_rows_on_failure():
            record_rows(
                self._progress.store,
                [*names, *others],
                [*values, *others.values()],
                self._parameters(),
                scaler,
                auxiliary=others,
            )
        for name, value in zip(names, values, strict=True):
            self._progress.add_loss(name, value)

    def _samples(self, names: tuple[str, ...], samples: Sequence[Losses]) -> dict[str, Tensor]:
        """The losses of the same objectives on other batches, by the names of their rows."""
        values: dict[str, Tensor] = {}
        for k, sample in enumerate(samples, 1):
            others, losses, _ = named_losses(sample)
            if set(others) != set(names):
                raise ValueError(
                    f"`samples` must hold the objectives of `losses`, {', '.join(names)}; got"
                    f" {', '.join(others)}. Compute the same losses on another batch."
                )
            values |= {sample_name(n, k): v for n, v in zip(others, losses, strict=True)}
        refuse_unused(self.weighting, tuple(values))
        taken = [name for name in names if name in values]
        if taken:
            raise ValueError(
                f"objectives must not be named like the rows of samples; got {', '.join(taken)},"
                " which are the names of another objective's samples. Rename them."
            )
        return values

    @contextlib.contextmanager
    def _captured(self, name: str, *, auxiliary: bool = False) -> Iterator[None]:
        """What the block leaves in `.grad` becomes a row."""
        progress, parameters = self._progress, self._parameters()
        progress.refuse_second_direction(parameters)
        with progress.capture(name), set_aside_gradients(parameters):
            resume_row(parameters, progress.store.take(name, parameters, auxiliary=auxiliary))
            yield
            row = take_gradients(parameters)
            if all(gradient is None for gradient in row):
                raise RuntimeError(
                    f"no gradient arrived in the block of {name!r}; call loss.backward() inside it,"
                    " on a loss that depends on the optimizer's parameters."
                )
            progress.store.add(name, row, auxiliary=auxiliary)

    def _combine_losses(self, losses: Losses) -> Tensor:
        """The first evaluation of a closure: combine, and return this step's weights."""
        if isinstance(self.weighting, GradientAggregator):
            raise ValueError(
                f"step(closure) needs weights, and {type(self.weighting).__name__} has none: call"
                " backward(losses) and step()."
            )
        names, values = self._named(losses)
        record = self._single_backward(names, values)
        if record is None:
            self._record_losses(names, values)
            record = self._combine()
        return record.weights

    def _combine_with(self, names: tuple[str, ...], losses: list[Tensor], weights: Tensor) -> None:
        """A later evaluation of a closure: the gradient of `sum_i w_i loss_i` at another point."""
        if isinstance(self.weighting, Scalarization):
            weighted_backward_(losses, weights)
            return
        store = GradientStore()
        record_rows(store, names, losses, self._parameters())
        flags = store.shared(self._shared_ids())
        warn_of_unweighted(type(self.optimizer).__name__, store.unweighted(flags))
        write_direction_(store, weights, flags)

    def _combine(self, scaler: GradScaler | None = None) -> StepRecord:
        progress = self._progress
        if not progress.store.rows:
            raise RuntimeError(
                "combine_() found no recorded objective; run `with optimizer.objective(name):"
                " loss.backward()` for each one first."
            )
        parameters = progress.store.parameters
        with progress.dropping_rows_on_failure():
            record = combine_rows_(
                progress.store,
                progress.losses,
                self.weighting,
                self.param_groups[0],
                shared=self._shared_ids(),
                inactive_tol=self.inactive_tol,
                scale=scale_of(scaler, parameters[0]),
                lr=self._lr(),
                step=progress.step,
                checked=progress.checked if self.check_replicas else None,
                positions=self._positions(parameters),
            )
        progress.publish(record, self.record_every, self.weighting)
        return record
