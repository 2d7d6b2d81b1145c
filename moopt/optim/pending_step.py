"""PendingStep: what waits between two calls, and every misuse that is refused."""

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from moopt.aggregators.base import Method
from moopt.gradients import GradientStore
from moopt.gradients.capture import foreign, trainable, undisturbed
from moopt.gradients.held import Held, HoldingStore, forget, has_direction, held_in, refuse_used
from moopt.optim.callers import called_by, warn
from moopt.optim.untrained import Untrained
from moopt.records.step_record import StepRecord
from moopt.records.unread import UnreadRecord
from moopt.scalarizations import Scalarization
from moopt.step.device_memory import OnDevice

SCALES_CHECKED = 3
"""In so many first steps the direction is looked at again before it is used."""

SMALLEST_SCALE = 256.0
"""A GradScaler's factor is a power of two, 65536 at first: a smaller one is left to clipping."""


@dataclasses.dataclass(eq=False)
class PendingStep:
    """Hold the rows in flight and the counters, so that proxies never rebind anything.

    Attributes:
        step: combined steps so far.
        bypassed: plain steps on gradients that no objective recorded.
        skipped: objectives that were left out because they were not finite.
        store: rows that were recorded and not yet combined, with their losses.
        record: the last record that was kept.
        last: that of the last combined step.
        waiting: a direction waits in `.grad` for `step()`.
        recording: the objective whose block is open.
        unnamed: the length of an unnamed sequence of losses.
        scaled: whether a GradScaler scaled the micro-batches so far; None before the first one.
        checked: how often the processes combined each set of objectives.
        unobserved: steps in a row after which the losses were not observed.
        untrained: for each objective, the steps in a row in which it was at its noise floor, or
            neglected by a scalarization.
        on_device: what steps without readback keep, and the count of all fallbacks.
        probed: a distributed checkpoint took its trial step before the method had a state.
        scales_checked: in so many steps a forgotten GradScaler was looked for.
        witness: a parameter, and the largest entry of the direction there.
        marker: between two micro-batches, a parameter and what its `.grad` holds, which show
            whether somebody cleared the gradients.
    """

    step: int = 0
    bypassed: int = 0
    skipped: int = 0
    store: GradientStore = dataclasses.field(default_factory=GradientStore)
    record: StepRecord = dataclasses.field(default_factory=StepRecord)
    last: StepRecord = dataclasses.field(default_factory=StepRecord)
    waiting: bool = False
    recording: str | None = None
    unnamed: int | None = None
    scaled: bool | None = None
    checked: Counter[tuple[str, ...]] = dataclasses.field(default_factory=Counter)
    unobserved: int = 0
    untrained: Untrained = dataclasses.field(default_factory=Untrained)
    on_device: OnDevice = dataclasses.field(default_factory=OnDevice)
    probed: bool = False
    scales_checked: int = 0
    witness: tuple[Tensor, float] | None = None
    marker: tuple[Tensor, Tensor, int, bool] | None = None

    @property
    def held(self) -> Held | None:
        """The direction that waits unwritten for a fused step; None if none does."""
        return held_in(self.store)

    def drop(self) -> None:
        """Forget what was recorded and not yet stepped along.

        Raises:
            RuntimeError: an objective's block is open.
        """
        if self.recording is not None:
            raise RuntimeError(
                f"the gradients cannot be cleared inside objective({self.recording!r}): that would"
                " drop the other objectives. Call optimizer.zero_grad() before the first block."
            )
        if self.marker is not None:
            self._unmark()
        self.store.clear()
        forget(self.store)
        self.waiting, self.scaled = False, None

    def begin(self, parameters: Sequence[Tensor]) -> None:
        """Get ready to record: refuse a second direction, and see who cleared the gradients.

        `model.zero_grad()` in the middle of an accumulation clears it, as it does in torch.

        Raises:
            RuntimeError: a direction waits for `step()`.
        """
        if self.waiting and not self.is_waiting_at(parameters):
            self.waiting = False  # somebody else cleared the gradients: the step was skipped
            forget(self.store)
        if self.waiting:
            raise RuntimeError(
                "the direction of the previous backward was not used; call optimizer.step() or"
                " optimizer.zero_grad() first, or pass accumulate=True for micro-batches."
            )
        if isinstance(self.store, HoldingStore):
            refuse_used(parameters)
        if self.marker is not None:
            self.resume()

    def is_waiting_at(self, parameters: Sequence[Tensor]) -> bool:
        """Whether a direction waits for `step()`, and some of these parameters have a gradient."""
        return self.waiting and any(map(has_direction, parameters))

    def resume(self) -> None:
        """Take the rows up again after `pause`; drop them where the gradients were cleared."""
        if self.marker is not None and not self._unmark():
            self.drop()

    def _unmark(self) -> bool:
        """Put `.grad` back as before `pause`; return whether nobody has cleared it since."""
        assert self.marker is not None
        parameter, gradient, version, ours = self.marker
        self.marker = None
        if parameter.grad is not gradient:
            # A wrapper puts its own buffer in its place, with all that was added since.
            return bool(foreign([parameter.grad]))
        if gradient._version != version:
            if bool(gradient.any()):
                return True  # somebody added to it
            if not bool(gradient.signbit().any()):
                return False
        if ours:
            parameter.grad = None
        return True

    def pause(self, parameters: Sequence[Tensor]) -> None:
        """Keep the rows for further micro-batches; leave something in `.grad` to be cleared."""
        # What another optimizer left as its marker does not count.
        waiting = (p for p in parameters if p.grad is not None)
        marked = next((p for p in waiting if not hasattr(p.grad, "moopt_marker")), None)
        ours = marked is None
        if marked is None:
            # Not where another optimizer has its own, if there is a choice.
            free = [p for p in parameters if p.grad is None] or parameters
            marked = min(free, key=lambda p: p.numel() or math.inf)
            # Clearing makes it +0, scaling leaves it -0, and what is added comes through whole.
            marked.grad = torch.zeros_like(marked, requires_grad=False).neg_()
            marked.grad.moopt_marker = True  # type: ignore[attr-defined]
        gradient = marked.grad
        assert gradient is not None
        self.marker = (marked, gradient, gradient._version, ours)

    @contextlib.contextmanager
    def block(
        self, name: str, parameters: Sequence[Tensor], *, auxiliary: bool = False
    ) -> Iterator[None]:
        """Make a row of what a block leaves in `.grad`; blocks do not nest."""
        self.begin(parameters)
        if self.recording is not None:
            raise RuntimeError(
                f"objective({name!r}) was entered inside objective({self.recording!r}); close one"
                " block before the next."
            )
        self.recording = name
        try:
            recording = self.store.recording(name, parameters, auxiliary=auxiliary)
            with undisturbed(parameters), recording:
                yield
            if not self.store.arrived:
                raise RuntimeError(
                    f"no gradient arrived in the block of {name!r}; call loss.backward() inside it,"
                    " on a loss that depends on the optimizer's parameters."
                )
        except BaseException as error:
            self.recording = None
            self.fail(error)
            raise
        self.recording = None
        self.pause(parameters)

    def fail(self, error: BaseException) -> None:
        """After an exception, start over: half a step's rows would mix into the next one."""
        error.add_note("moopt dropped the rows of this step; `.grad` is as it was before.")
        self.drop()

    def finish(self, record: StepRecord, every: int, method: Method) -> StepRecord:
        """Count a combined step; keep its record in every k-th one.

        Warn, once each, where the method learns from the losses after a step and was given none,
        and where an objective is at its noise floor, or has no weight to speak of, all the time.
        """
        unread = isinstance(record, UnreadRecord)
        if not unread:
            self.on_device.before += record.fallbacks
            self.skipped += len(record.left_out)
            counts = self.on_device
            fallbacks = int(counts.before) if counts.kept is None else counts.fallbacks()
            if (fallbacks, self.skipped) != (record.fallbacks, record.skipped):
                record = dataclasses.replace(record, fallbacks=fallbacks, skipped=self.skipped)
        if self.step % every == 0:
            self.record = record
        self.last, self.waiting, self.scaled = record, True, None
        self.step += 1
        if unread:
            self.untrained.follow_read(self.on_device)
            return record
        self.unobserved += method.observes
        if self.unobserved == 2:
            warn(
                f"{type(method).__name__} learns from the losses after the step and was given none;"
                " call optimizer.observe(losses) after step(), computed again on the same batch."
            )
        neglected = {}
        if isinstance(method, Scalarization):
            neglected = dict(method.neglected(record.names, record.weights))
        if neglected or self.untrained or not record.active.all():
            self.untrained.follow(record, neglected)
        return record

    def remember_length(self, parameters: Sequence[Tensor]) -> None:
        """Remember how long one gradient of the direction is, for `check_scale`."""
        filled = [p for p in parameters if p.grad is not None]
        if filled:
            smallest = min(filled, key=Tensor.numel)
            self.witness = (smallest, _largest(smallest))

    def check_scale(self) -> None:
        """Refuse a step whose direction a GradScaler divided by a factor that it never carried.

        Raises:
            RuntimeError: the scaler itself asks for the step. Elsewhere, where something else may
                have divided by a power of two, it is a warning.
        """
        self.scales_checked += 1
        witness, self.witness = self.witness, None
        if witness is None or witness[0].grad is None:
            return
        before, now = witness[1], _largest(witness[0])
        ratio = before / now if now > 0.0 else 0.0
        if ratio < SMALLEST_SCALE or math.frexp(ratio)[0] != 0.5:
            return
        told = (
            f"the direction was divided by {ratio:.0f} between backward and step(), as a GradScaler"
            " does, but nothing told moopt of a scale. Pass the losses unscaled, and the scaler:"
            " optimizer.backward(losses, scaler=scaler) or combine_(scaler=scaler)."
        )
        if called_by("torch.amp.grad_scaler"):
            self.scales_checked -= 1  # the next one is looked at too
            raise RuntimeError(told)
        self.scales_checked = SCALES_CHECKED
        warn(told)

    def check_scaled(self, scaled: bool) -> None:
        """Refuse micro-batches of which some are scaled and others are not.

        Raises:
            ValueError: this one is not like those before it.
        """
        if self.scaled not in (None, scaled):
            raise ValueError(
                "the micro-batches of one step must all have the scaler, or none of them; got one"
                f" {'with' if scaled else 'without'} it after others"
                f" {'without' if scaled else 'with'}. Pass scaler= to every backward(...)."
            )
        self.scaled = scaled

    def check_unnamed_length(self, length: int) -> None:
        """Refuse an unnamed sequence of another length than the last one."""
        if self.unnamed not in (None, length):
            raise ValueError(
                f"an unnamed sequence of losses must keep its length; got {length} after"
                f" {self.unnamed}. Pass a mapping name -> loss: objectives may then come and go."
            )
        self.unnamed = length

    def refuse_open_block(self) -> None:
        """Refuse a step inside an objective's block.

        Raises:
            RuntimeError: one is open.
        """
        if self.recording is not None:
            raise RuntimeError(
                f"step() was called inside objective({self.recording!r}). Close the block, and call"
                " combine_() before step()."
            )

    def refuse_uncombined(self) -> NoReturn:
        """Refuse a step while rows wait to be combined."""
        rows = (*self.store.rows, *self.store.auxiliary)
        raise RuntimeError(
            f"step() found rows of {', '.join(map(repr, rows))} that were never combined; call"
            " optimizer.combine_() first, or backward(...) without accumulate=True."
        )

    def note_unrecorded_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count a plain step on gradients that no objective recorded; warn the first time.

        Distributed checkpointing builds the optimizer's state by one step with zero learning rate
        and zero gradients: that is not a plain step, but a stateful weighting must have its state
        by then. It must not be refused here, where torch would leave the learning rate at zero:
        `state_dict`, which comes next, refuses it.
        """
        gradients = [p.grad for p in trainable(optimizer) if p.grad is not None]
        frozen = all(group.get("lr", 1.0) == 0 for group in optimizer.param_groups)
        if gradients and frozen and not any(bool(gradient.any()) for gradient in gradients):
            self.probed = True
        elif gradients:
            self.bypassed += 1
            if self.bypassed == 1:
                warn(
                    "CommonDescent.step() ran on gradients that no objective recorded: a plain step"
                    " of the wrapped optimizer. Call optimizer.backward(losses), not"
                    " loss.backward()."
                )


def _largest(parameter: Tensor) -> float:
    """The largest size of an entry of `.grad`."""
    assert parameter.grad is not None
    return float(parameter.grad.detach().abs().max()) if parameter.numel() else 0.0
