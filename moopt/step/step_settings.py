"""StepSettings: what a step is told beside its losses or rows."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from torch import Tensor

from moopt.step.device_memory import OnDevice
from moopt.step.method_state import MethodState

DEFAULT_INACTIVE_TOL = 1e-5
"""A gradient this small relative to the largest is noise: float32 rounding leaves about 4e-6."""


class StepSettings(NamedTuple):
    """What a step is told beside its losses or rows.

    Attributes:
        memory: the method, and what it keeps from step to step; read once and written once.
        shared: `id`s of the parameters that enter the Gramian; None for the default rule. The
            others take their gradients unweighted, except under a scalarization, which weighs
            every parameter.
        inactive_tol: relative noise floor of a gradient.
        lr: learning rate, for methods that use it.
        step: number of combined steps before this one.
        checked: for `is_checked_step`; None compares no processes and averages no losses.
        positions: the numbers of some parameters among all of the optimizer's; None if there are
            no others.
        skip_non_finite: leave out objectives whose loss or gradient is not finite.
        on_device: for steps without readback; None if there are none.
    """

    memory: MethodState
    shared: Collection[int] | None = None
    inactive_tol: float = DEFAULT_INACTIVE_TOL
    lr: float | None = None
    step: int = 0
    checked: Counter[tuple[str, ...]] | None = None
    positions: Callable[[Sequence[Tensor]], Sequence[int]] | None = None
    skip_non_finite: bool = False
    on_device: OnDevice | None = None
