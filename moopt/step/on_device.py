"""on_device: a step whose numbers never leave the device, and the record that reads them later."""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.gradients import GradientStore
from moopt.kernels.gramian_min_norm import fused_step, gramian_min_norm, unpacked
from moopt.records.device_point import DevicePoint
from moopt.records.status import SolverStatus
from moopt.records.unread import UnreadRecord
from moopt.settings.preference import numbers_in_order
from moopt.step.device_memory import OnDevice
from moopt.step.step_settings import StepSettings


def device_point(store: GradientStore, settings: StepSettings) -> DevicePoint | None:
    """What to solve for without readback; None where the host weighs the objectives.

    Raises:
        RuntimeError: every step has to be taken so, and this one cannot.
    """
    on_device, method = settings.on_device, settings.memory.method
    if on_device is None:
        return None
    point = getattr(method, "device_point", None)
    device = store.parameters[0].device
    why = ""
    if point is None:
        why = f"{method} is weighed by the host: use MGDA, UPGrad or DualProj as they are"
    elif settings.skip_non_finite:
        why = "skip_non_finite looks at every gradient"
    elif settings.checked is not None:
        why = "the processes of a group compare their gradients: pass check_replicas=False"
    elif any(p.device != device for p in store.parameters):
        why = "the parameters lie on several devices"
    if on_device.always:
        if why:
            raise RuntimeError(f"capturable=True reads nothing from the device, and {why}.")
        return point
    if why or point is None or device.type != "cuda":
        return None
    dtypes = {p.dtype for p in store.parameters}
    form = fused_step(device, len(store.rows), dtypes)
    return point if form.name == "triton" else None


def step_on_device(
    store: GradientStore,
    settings: StepSettings,
    shared: Sequence[bool],
    scale: Tensor | None,
    point: DevicePoint,
) -> UnreadRecord:
    """Combine the rows into a direction in `.grad`, as `take_step` does, and read nothing.

    Args:
        store: one row per objective, on one device; on return it is empty.
        settings: with the method, and what steps on the device keep.
        shared: one flag per parameter.
        scale: the factor of a GradScaler that the rows carry.
        point: from `device_point`.

    Returns:
        The record, which reads the device when it is looked at.
    """
    on_device, method = settings.on_device, settings.memory.method
    assert on_device is not None
    names, m = tuple(store.rows), len(store.rows)
    device = store.parameters[0].device
    kept = on_device.prepared(names, device)
    given = list(store.losses.values())
    losses = torch.stack(
        [
            torch.full((), math.nan, dtype=torch.float64, device=device)
            if loss is None
            else loss.detach().to(device, torch.float64)
            for loss in given
        ]
    )
    wanted = getattr(method, "preference", None)
    if wanted is not None and on_device.preference is None:
        numbers = numbers_in_order(wanted, names, m, method.name, "preference")
        on_device.preference = torch.tensor(numbers, dtype=torch.float64, device=device)
    weighed = m > 1 and any(shared)
    packed = gramian_min_norm(
        store.chosen(shared),
        losses,
        kept,
        point=point,
        known=[loss is not None for loss in given],
        preference=on_device.preference,
        scale=None if scale is None else scale.detach().to(device),
        inactive_tol=settings.inactive_tol,
        eps=store.accumulation_eps(),
        tol=getattr(method, "tol", 1e-10),
    )
    store.write_direction_(packed[:m] if weighed else [1.0] * m, shared)
    on_device.steps += 1
    return UnreadRecord(_Reader(on_device, packed, settings.step, weighed), names=names)


class _Reader:
    """Reads the packed numbers of a step into the fields of a record."""

    def __init__(self, on_device: OnDevice, packed: Tensor, step: int, weighed: bool) -> None:
        self.names, self.packed, self.step, self.weighed = on_device.names, packed, step, weighed
        self.launched, self.before = on_device.steps, on_device.before
        self.on_device = weakref.ref(on_device)

    def __call__(self) -> dict[str, Any]:
        m = len(self.names)
        numbers = unpacked(self.packed.cpu(), m)
        status = SolverStatus(int(numbers.status))
        finite = status is not SolverStatus.NON_FINITE
        on_device = self.on_device()
        if on_device is not None:
            on_device.idle = dict(zip(self.names, map(int, numbers.idle.tolist()), strict=True))
        known: dict[str, Any] = {
            "losses": numbers.losses,
            "weights": numbers.weights,
            "gramian": numbers.gramian,
            "active": numbers.active > 0.0,
            "stationarity": float(numbers.stationarity),
            "status": status,
            "gap": float(numbers.gap),
            "descent": bool(numbers.descent),
            "fell_back": bool(numbers.fell_back),
            "fallbacks": int(self.before) + int(numbers.fallbacks),
            "rises": numbers.rises > 0.0,
            "step": self.step + max(0, int(numbers.steps) - self.launched),
        }
        if self.weighed:
            return known
        alone = m == 1
        return known | {
            "weights": torch.ones(m, dtype=torch.float64),
            "active": torch.ones(m, dtype=torch.bool),
            "stationarity": float(numbers.gramian[0, 0] > 0.0) if alone else math.nan,
            "status": SolverStatus.CONVERGED if finite else SolverStatus.NON_FINITE,
            "gap": 0.0 if alone else math.nan,
            "descent": finite,
            "fell_back": False,
            "rises": None,
        }
