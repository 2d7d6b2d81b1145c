"""CommonDescent: a torch optimizer that takes one step for several losses."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.amp import GradScaler

from moopt.aggregators import GradientAggregator, TrackingAggregator
from moopt.aggregators.base import Method
from moopt.gradients import GradientStore, HoldingStore
from moopt.gradients.averaged import allocate_rows
from moopt.gradients.capture import others_on, register, trainable, undisturbed
from moopt.gradients.held import NOT_WEIGHTED, clear_unwritten
from moopt.gradients.replicas import has_replicas
from moopt.optim.callers import warn
from moopt.optim.fused_step import fused_step, refuse_unfit
from moopt.optim.pending_step import SCALES_CHECKED, PendingStep
from moopt.optim.resolve_method import resolve_method
from moopt.optim.wrapped_optimizer import WrappedOptimizer
from moopt.records.step_record import StepRecord
from moopt.records.unread import UnreadRecord
from moopt.scalarizations import Scalarization
from moopt.settings.numbers import check_number
from moopt.step.differentiate import differentiate, ids_of, scale_of
from moopt.step.method_state import MethodState, is_stateful
from moopt.step.objectives import (
    Losses,
    loss_value,
    named_losses,
    objective_names,
    refuse_torch_closure,
    refuse_unknown,
    sample_losses,
)
from moopt.step.one_pass import one_pass, weighted_backward_
from moopt.step.step_settings import StepSettings
from moopt.step.take_step import refuse_unused, take_step
from moopt.weightings import Sum


class CommonDescent(WrappedOptimizer):
    """Train one model on several losses: a common descent direction for any optimizer.

    Wrap the optimizer you have, and hand over the losses by name in place of their sum. Use it
    where the losses compete and none should rise for the sake of the others. Each step solves, over
    the objectives' gradients `g_1 ... g_m`, the weighting's problem on their Gramian
    `G_ij = g_i . g_j`, and hands `d = sum_i w_i g_i` to the wrapped optimizer as `.grad`. For a
    weighting that guarantees common descent, `g_i . d >= 0` for every active objective: to first
    order and on this batch, a small enough step along `-d` raises none of them. The wrapped
    optimizer's momentum, preconditioner and decay act on `d` as on any gradient.

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
        skip_non_finite: leave an objective whose loss or gradient is NaN or infinite out of the
            step, and go on with the others; the record names it. In a process group all processes
            leave it out if one has to. Where none is finite, nothing is left out: the step is the
            non-finite one that it is with the default, False, which lets what is not finite reach
            `.grad`, where a GradScaler or the user sees it.
        check_replicas: in a process group, compare the processes' gradients in the first steps of
            each set of objectives and in every 100th, and raise where they differ; and average the
            losses of a method that looks at them. False for processes that train different models.
        capturable: as torch's own optimizers have it, for a step inside a CUDA graph: the host
            reads nothing, and what cannot be done so is refused. For `MGDA` (without losses),
            `UPGrad` and `DualProj`; the wrapped optimizer needs its own `capturable=True`.
            `record` then tells of the last replay.
        fused: for torch's SGD, Adam and AdamW themselves: `step()` makes the direction and uses it
            entry by entry, with the numbers and states of the wrapped optimizer, and never writes
            it. `.grad` then holds tensors without values, and what would look at them (clipping, a
            GradScaler, another backward pass) raises. The step is the wrapped optimizer's to
            rounding, and its own where it has no state yet, so in the first step; when this pays:
            docs/performance.md.
    Raises:
        TypeError: `optimizer` is not a torch optimizer instance, or is wrapped already, or
            `weighting` is not a weighting; with `fused`, an optimizer whose update is not known,
            complex parameters, or a gradient aggregator.
        ValueError: a value out of range, a parameter in `shared` that is not the optimizer's, or
            `capturable` with parameters that do not lie on a CUDA device; with `fused`, a
            differentiable or capturable optimizer.
        RuntimeError: with `fused`, hooks that the step would pass over.

    Numerics:
        What is summed in which precision: docs/numerics.md. A step reads each gradient twice and
        writes the direction into the memory of the first: peak extra memory is the m gradients.
        The m x m Gramian and the losses are read from the device once per step; on CUDA, for the
        methods that `capturable` names, in the record only, when it is looked at. With a single
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

    Source: J.-A. Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", 2012, https://doi.org/10.1016/j.crma.2012.03.014; each weighting names its own.
    """

    _pending: PendingStep

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        weighting: Method | str | None = None,
        *,
        shared: Iterable[Tensor] | None = None,
        objectives: Iterable[str] | None = None,
        inactive_tol: float = 1e-5,
        record_every: int = 1,
        skip_non_finite: bool = False,
        check_replicas: bool = True,
        capturable: bool = False,
        fused: bool = False,
    ) -> None:
        if isinstance(optimizer, CommonDescent):
            raise TypeError(
                "`optimizer` of CommonDescent must be an instance of a torch optimizer that is not"
                " wrapped yet; got a CommonDescent. Use it as it is, or pass its `.optimizer`."
            )
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                "`optimizer` of CommonDescent must be an instance of a torch optimizer; got"
                f" {type(optimizer).__name__}. Pass torch.optim.AdamW(model.parameters())."
            )
        check_number("CommonDescent", "inactive_tol", inactive_tol, "in [0, 1)", use="1e-5")
        if not isinstance(record_every, int) or record_every < 1:
            raise ValueError(f"`record_every` must be an int >= 1; got {record_every!r}. Use 1.")
        self.optimizer = optimizer
        self.weighting = resolve_method(weighting)
        self.shared = None if shared is None else list(shared)
        self.objectives = None if objectives is None else objective_names(objectives)
        self.inactive_tol = float(inactive_tol)
        self.record_every = record_every
        self.skip_non_finite = bool(skip_non_finite)
        self.check_replicas = bool(check_replicas)
        self.capturable = bool(capturable)
        self.fused = bool(fused)
        if self.fused:
            refuse_unfit(optimizer)
            if isinstance(self.weighting, GradientAggregator):
                raise TypeError(NOT_WEIGHTED)
        self.__setstate__({})
        if self.capturable:
            self._refuse_other_than_cuda()
        if self.shared is not None:
            ids_of(self.shared, trainable(self.optimizer))
        self._allocate_state()

    def __repr__(self) -> str:
        # Not torch's, which prints every entry of a group: ours may be as large as the model.
        groups = "; ".join(
            ", ".join(f"{k}={v}" for k, v in group.items() if k != "params" and k[:6] != "moopt_")
            for group in self.param_groups
        )
        optimizer = f"{type(self.optimizer).__name__}({groups})"
        fused = ", fused=True" if self.fused else ""
        return f"CommonDescent({optimizer}, weighting={self.weighting!r}{fused})"

    def __getstate__(self) -> dict[str, Any]:
        pending = self._pending
        fallbacks = pending.on_device.fallbacks()
        kept = (pending.step, pending.bypassed, pending.skipped, fallbacks)
        return super().__getstate__() | {"moopt_counts": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        *counts, fallbacks = state.get("moopt_counts", (0,))
        pending = PendingStep(*counts)
        pending.on_device.before = fallbacks
        kept = {key: value for key, value in state.items() if key != "moopt_counts"}
        # torch's own __setstate__ creates the hook tables, as Optimizer.__init__ would.
        super().__setstate__(kept | {"_pending": pending})
        pending.on_device.always = self.capturable
        if self.fused:
            pending.store = HoldingStore()
        register(self)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state; a weighting's own lies in its first parameter group.

        Raises:
            RuntimeError: a distributed checkpoint would drop the state of a stateful weighting.
        """
        if self._pending.probed:
            self._memory().refuse_missing()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a state dict of the wrapped optimizer alone.

        Rows that wait to be combined are dropped. A direction that waits in `.grad` stays there,
        as every gradient does: the next `backward` asks for `zero_grad()` first.
        """
        super().load_state_dict(state_dict)
        pending = self._pending
        if pending.held is None:
            waiting = pending.waiting
            pending.drop()
            pending.waiting = waiting
        if is_stateful(self.weighting):
            self._memory().refuse_other()
        self._allocate_state()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear `.grad`, and drop rows that were recorded and not yet combined."""
        if self.fused and self._pending.recording is None:
            everyone = [p for group in self.optimizer.param_groups for p in group["params"]]
            clear_unwritten(everyone, set_to_none=set_to_none)
        self._pending.drop()
        self.optimizer.zero_grad(set_to_none=set_to_none)

    @property
    def record(self) -> StepRecord:
        """The last `StepRecord`; an empty one before the first step."""
        record, bypassed = self._pending.record, self._pending.bypassed
        if self.capturable and isinstance(record, UnreadRecord):
            record = record.again()
        return record if not bypassed else dataclasses.replace(record, bypassed=bypassed)

    @overload
    def backward(
        self,
        losses: Losses,
        *,
        samples: Sequence[Losses] = ...,
        scaler: GradScaler | None = ...,
        accumulate: Literal[False] = ...,
    ) -> StepRecord: ...
    @overload
    def backward(
        self,
        losses: Losses,
        *,
        samples: Sequence[Losses] = ...,
        scaler: GradScaler | None = ...,
        accumulate: bool,
    ) -> StepRecord | None: ...
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
            TypeError, ValueError: malformed losses, or one that reaches no parameter; some of the
                micro-batches of a step have the scaler and others do not.
            RuntimeError: the previous direction was not used by `step()`, or a backward failed.
        """
        if self.fused:
            self._refuse_scaler(scaler)
        parameters = self._free_parameters()
        named = self._named(losses)
        self._pending.begin(parameters)
        record = self._backward(named, parameters, scaler, samples, accumulate)
        return None if record is None else self.record

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
        if self.objectives is not None:
            refuse_unknown((name,), self.objectives)
        value = None if loss is None else loss_value(name, loss)
        with self._pending.block(name, self._free_parameters()):
            yield
        self._pending.store.add_loss(name, value)

    @contextlib.contextmanager
    def auxiliary(self, name: str) -> Iterator[None]:
        """Record what the block leaves in `.grad` as a row that is not an objective.

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
        with self._pending.block(name, self._free_parameters(), auxiliary=True):
            yield

    def combine_(self, *, scaler: GradScaler | None = None) -> StepRecord:
        """Combine the recorded rows into one direction, and add it to `.grad`.

        Args:
            scaler: the GradScaler whose factor the rows carry, if their losses were scaled.

        Raises:
            RuntimeError: no row was recorded.
            ValueError: the weighting needs losses and one is missing.
        """
        if self.fused:
            self._refuse_scaler(scaler)
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
        replicas = self.check_replicas and has_replicas()
        self._memory().observe(losses, self._pending.last, replicas=replicas)
        self._pending.unobserved = 0

    def step(self, closure: Callable[[], Losses] | None = None) -> Any:  # type: ignore[override]
        """Take the wrapped optimizer's step along the direction in `.grad`.

        Args:
            closure: returns the losses and calls no backward; this method zeroes and
                differentiates. An optimizer that evaluates it several times in a step (LBFGS)
                minimises `sum_i w_i loss_i` with the weights of the first evaluation.

        Returns:
            What the wrapped optimizer returns: None, or with a closure `sum_i w_i loss_i`.

        Raises:
            RuntimeError: rows were recorded and never combined, an objective's block is open, or a
                GradScaler divided the direction by a factor that nothing told this object of.
        """
        if self._optimizer_step_pre_hooks:
            closure = self._before_step(closure)
        pending = self._pending
        pending.refuse_open_block()
        if pending.store.rows or pending.store.auxiliary:
            pending.refuse_uncombined()
        if closure is not None:
            result: Any = self._step_with(self._weighted(closure))
        else:
            if not pending.waiting:
                pending.note_unrecorded_step(self.optimizer)
            if pending.scales_checked < SCALES_CHECKED:
                pending.check_scale()
            result = self._step_with(None) if self.fused else self.optimizer.step()
        pending.waiting = False
        if self._optimizer_step_post_hooks:
            self._after_step(closure)
        return result

    # torch would wrap `step` to run the hooks, this optimizer's own and those registered for all
    # optimizers; the latter run in the wrapped optimizer's step already.
    step.hooked = True  # type: ignore[attr-defined]

    def _step_with(self, closure: Callable[[], Tensor] | None) -> Any:
        """The wrapped optimizer's step, or a fused one in its place."""
        store = self._pending.store
        if not isinstance(store, HoldingStore):
            return self.optimizer.step(closure)  # type: ignore[arg-type]
        loss = None if closure is None else closure()  # once, as these optimizers do
        fused_step(self.optimizer, store)
        return loss

    def _refuse_scaler(self, scaler: GradScaler | None) -> None:
        """Refuse a GradScaler that divides what is never written.

        Raises:
            ValueError: it is on, and this optimizer is fused.
        """
        if scaler is not None and scaler.is_enabled():
            raise ValueError(
                "fused=True takes no GradScaler, which divides and inspects `.grad` before the"
                " step; got one that is enabled. Train in bfloat16 without it, or use"
                " CommonDescent(..., fused=False)."
            )

    def _free_parameters(self) -> list[Tensor]:
        """The trainable parameters, none of which another optimizer's direction waits at.

        Raises:
            RuntimeError: one does; the directions of both would be added up.
        """
        parameters = trainable(self.optimizer)
        for other in others_on(self, parameters):
            if isinstance(other, CommonDescent) and other._pending.is_waiting_at(parameters):
                raise RuntimeError(
                    "the direction of another CommonDescent waits in `.grad` of the same"
                    " parameters; call step() or zero_grad() of that one first."
                )
        return parameters

    def _positions(self, parameters: Sequence[Tensor]) -> list[int]:
        """The number of each parameter in the order of torch's own state dict."""
        groups = self.optimizer.param_groups
        number = {id(p): k for k, p in enumerate(p for group in groups for p in group["params"])}
        return [number[id(p)] for p in parameters]

    def _settings(self) -> StepSettings:
        """What a step is told; the learning rate only where it is a plain number."""
        pending, lr = self._pending, self.optimizer.param_groups[0].get("lr")
        return StepSettings(
            memory=self._memory(),
            shared=None if self.shared is None else frozenset(map(id, self.shared)),
            inactive_tol=self.inactive_tol,
            lr=float(lr) if isinstance(lr, int | float) else None,
            step=pending.step,
            checked=pending.checked if self.check_replicas and has_replicas() else None,
            positions=self._positions,
            skip_non_finite=self.skip_non_finite,
            on_device=pending.on_device,
        )

    def _refuse_other_than_cuda(self) -> None:
        elsewhere = {p.device.type for p in trainable(self.optimizer)} - {"cuda"}
        if elsewhere:
            raise ValueError(
                "`capturable=True` of CommonDescent is for CUDA graphs, and needs every parameter"
                f" on a CUDA device; got {', '.join(sorted(elsewhere))}. Leave it out."
            )

    def _memory(self) -> MethodState:
        return MethodState(self.weighting, self.optimizer.param_groups[0])

    def _allocate_state(self) -> None:
        """Make room for the state of the objectives that were named beforehand."""
        if self.objectives is not None and is_stateful(self.weighting):
            memory = self._memory()
            memory.make_room(self.objectives)
            if isinstance(self.weighting, TrackingAggregator):
                kept = trainable(self.optimizer) if self.shared is None else self.shared
                allocate_rows(memory, self.weighting, kept, self._positions(kept))

    def _named(self, losses: Losses) -> dict[str, Tensor]:
        named = named_losses(losses)
        if not isinstance(losses, Mapping):
            self._pending.check_unnamed_length(len(named))
        if self.objectives is not None:
            refuse_unknown(named, self.objectives)
        return named

    def _backward(
        self,
        losses: dict[str, Tensor],
        parameters: list[Tensor],
        scaler: GradScaler | None = None,
        samples: Sequence[Losses] = (),
        accumulate: bool = False,
    ) -> StepRecord | None:
        """Leave the direction in `.grad`, by one pass where that is enough; or keep the rows."""
        pending, method = self._pending, self.weighting
        enough = isinstance(method, Scalarization)
        if isinstance(method, Sum):  # its record needs the rows
            enough = pending.step % self.record_every != 0
        rows = samples or accumulate or pending.store.rows or self.skip_non_finite
        if enough and not rows:
            with undisturbed(parameters):
                record = one_pass(losses, parameters, self._settings(), scaler)
            return pending.finish(record, self.record_every, method)
        others: dict[str, Tensor] = {}
        if samples:
            others = sample_losses(losses, samples)
            refuse_unused(method, others)
        if accumulate or pending.scaled is not None:
            pending.check_scaled(scaler is not None and scaler.is_enabled())
        try:
            with undisturbed(parameters):
                differentiate(pending.store, losses | others, parameters, scaler, auxiliary=others)
        except BaseException as error:
            pending.fail(error)
            raise
        if accumulate:
            pending.pause(parameters)
            return None
        return self._combine(scaler)

    def _combine(self, scaler: GradScaler | None = None) -> StepRecord:
        pending = self._pending
        store = pending.store
        if pending.marker is not None:
            pending.resume()
        if not store.rows:
            raise RuntimeError(
                "combine_() found no recorded objective; run `with optimizer.objective(name):"
                " loss.backward()` for each one first."
            )
        try:
            scale = None if scaler is None else scale_of(scaler, store.parameters[0])
            record = take_step(store, self._settings(), scale)
        except BaseException as error:
            pending.fail(error)
            raise
        written = not (self.fused and pending.held)
        unscaled = scaler is None and written and not self.capturable
        if unscaled and pending.scales_checked < SCALES_CHECKED:
            pending.remember_length(store.parameters or trainable(self.optimizer))
        return pending.finish(record, self.record_every, self.weighting)

    def _weighted(self, closure: Callable[[], Losses]) -> Callable[[], Tensor]:
        """A closure that returns `sum_i w_i loss_i`, for one step of the wrapped optimizer.

        The first evaluation weighs the objectives; later ones (line searches, LBFGS) keep its
        weights, so that the optimizer sees one function.
        """
        weights: dict[str, Tensor] = {}  # of all but the objectives that were left out
        first: set[str] = set()

        def evaluate() -> Tensor:
            parameters = trainable(self.optimizer)
            with torch.enable_grad():
                self.zero_grad()
                losses = closure()
                refuse_torch_closure(losses, parameters)
                named = named_losses(losses)
                if first and named.keys() != first:
                    raise ValueError(
                        "the closure must return the same objectives in every evaluation; got"
                        f" {', '.join(named)} after {', '.join(sorted(first))}. Fix the batch."
                    )
                if first:
                    kept = {name: loss for name, loss in named.items() if name in weights}
                    self._backward_again(kept, [float(weights[name]) for name in kept], parameters)
                else:
                    if isinstance(self.weighting, GradientAggregator):
                        raise ValueError(
                            f"step(closure) needs weights, and {type(self.weighting).__name__} has"
                            " none: call backward(losses) and step()."
                        )
                    record = self._backward(self._named(losses), parameters)
                    assert record is not None
                    weights.update(zip(record.names, record.weights, strict=True))
                    first.update(named)
            terms = [
                loss.detach().double() * weights[name].to(loss.device)
                for name, loss in named.items()
                if name in weights
            ]
            return torch.stack(terms).sum()

        return evaluate

    def _backward_again(
        self, losses: dict[str, Tensor], weights: list[float], parameters: list[Tensor]
    ) -> None:
        """A later evaluation of a closure: the gradient of `sum_i w_i loss_i` at another point."""
        with undisturbed(parameters):
            if isinstance(self.weighting, Scalarization):
                weighted_backward_(losses, weights)
                return
            store = GradientStore()
            differentiate(store, losses, parameters)
        flags = store.shared(self._settings().shared)
        outside = store.unweighted(flags)
        if outside:
            warn(
                f"{type(self.optimizer).__name__} evaluates the closure several times a step, and"
                f" {outside} parameters take their gradients unweighted: its line search sees"
                " another function than its gradient. Pass shared=model.parameters()."
            )
        store.write_direction_(weights, flags)
