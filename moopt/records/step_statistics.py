"""StepStatistics: what a weighting called by hand may look at."""

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepStatistics:
    """What a weighting may look at: an `m x m` matrix and `m` losses, never a parameter.

    Attributes:
        gramian: float64 `[..., m, m]`, the inner products of the objectives' gradients.
            Leading dimensions are parameter groups.
        losses: float64 `[m]`, the unscaled loss values; None where the caller has none.
        names: the `m` objective names.
        active: bool `[..., m]`; False marks objectives that are absent or whose gradient is
            at its noise floor. They get weight 0 and influence nothing. None means all active.
        auxiliary: the names of trailing extra rows that are not objectives.
        lr: the learning rate of the first parameter group.
        step: how many steps were combined before this one.
        noise: the rounding of the Gramian's entries, relative to the norms of the two gradients;
            None takes that of its dtype. Give 1e-7 for a float64 copy of what was multiplied in
            float32.

    Example:
        >>> import torch, moopt
        >>> moopt.StepStatistics(gramian=torch.eye(3)).num_objectives
        3
    """

    gramian: Tensor
    losses: Tensor | None = None
    names: tuple[str, ...] | None = None
    active: Tensor | None = None
    auxiliary: tuple[str, ...] = ()
    lr: float | None = None
    step: int | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.gramian.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
            raise ValueError(
                f"`gramian` of `StepStatistics` must have shape [..., m, m] with m >= 1; got"
                f" {list(shape)}. Pass the Gramian J @ J.T, not the Jacobian."
            )

    @property
    def num_objectives(self) -> int:
        """The number m of objectives (rows of the Gramian that are not auxiliary)."""
        return self.gramian.shape[-1] - len(self.auxiliary)
