"""OnDevice: what steps without readback keep from one to the next."""

import dataclasses

import torch
from torch import Tensor

from moopt.kernels.gramian_min_norm import kept_numbers


@dataclasses.dataclass(eq=False)
class OnDevice:
    """What steps without readback keep, for the objectives of the last one.

    Attributes:
        always: take every step so, and refuse what cannot be; else where a fused kernel serves.
        before: how many steps fell back that `kept` does not count.
        names: the objectives.
        kept: `moopt.kernels.gramian_min_norm.kept_numbers`; None before the first step.
        steps: how many steps were launched from here; a replayed graph makes more of them.
        preference: the method's, on the device.
        idle: by objective, the steps in a row at its noise floor, of the last record that was read.
    """

    always: bool = False
    before: int | Tensor = 0
    names: tuple[str, ...] = ()
    kept: Tensor | None = None
    steps: int = 0
    preference: Tensor | None = None
    idle: dict[str, int] = dataclasses.field(default_factory=dict)

    def prepared(self, names: tuple[str, ...], device: torch.device) -> Tensor:
        """`kept` for these objectives; those of others are forgotten, but for the fallbacks."""
        if self.kept is None or self.names != names or self.kept.device != device:
            if self.kept is not None:
                self.before = self.before + self.kept[-2].to(device)
            self.kept, self.names = kept_numbers(len(names), device), names
            self.steps, self.preference = 0, None
        return self.kept

    def fallbacks(self) -> int:
        """How many steps fell back so far; reads the device."""
        return int(self.before) + (0 if self.kept is None else int(self.kept[-2]))
