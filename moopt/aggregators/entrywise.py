"""EntrywiseAggregator: methods that decide for each entry of the gradients separately."""

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.aggregators.base import GradientAggregator
from moopt.weightings.base import State


class EntrywiseAggregator(GradientAggregator):
    """A map from m gradients to one direction, entry by entry.

    It is called for every shared parameter in turn, and there are no weights.

    Example:
        >>> import torch
        >>> from moopt.aggregators import TrimmedMean
        >>> rows = torch.tensor([[1.0, -9.0], [2.0, 1.0], [9.0, 2.0]])
        >>> TrimmedMean(trim=1)(rows).tolist()
        [2.0, 1.0]
    """

    def next_state(self, state: State) -> State:
        """The state after a step, once every parameter was combined."""
        return state

    @abc.abstractmethod
    def _aggregate(
        self, rows: Tensor, active: Tensor, names: Sequence[str] | None, state: State, position: int
    ) -> Tensor:
        """The direction `[...]` of one parameter.

        Args:
            rows: `[m, ...]`, at least float32; 0 where inactive.
            active: bool `[m]`, on the host.
            names: the m objective names.
            state: the present one, in arrays or tensors.
            position: the number of the parameter, for independent random numbers.
        """

    def __call__(
        self,
        gradients: Sequence[Tensor] | Tensor,
        *,
        active: Tensor | None = None,
        names: Sequence[str] | None = None,
        state: State | None = None,
        position: int = 0,
    ) -> Tensor:
        """The direction for one parameter.

        Args:
            gradients: m tensors of one shape (or a Jacobian `[m, n]`), real floating point.
            active: bool `[m]`; the others have no influence. None means all active.
            names: the m objective names.
            state: as `initial_state` or `next_state` returned it; None means the initial one.
            position: which parameter of the step this is.

        Returns:
            A tensor of that shape, in the gradients' dtype; NaN where an active gradient is not
            finite.

        Raises:
            ValueError: a setting does not fit the number of objectives, or names are missing.
            TypeError: gradients are complex.
        """
        rows = torch.stack([gradient.detach() for gradient in gradients])
        if not rows.is_floating_point():
            raise TypeError(
                f"gradients of `{self.name}` must be real floating point; got {rows.dtype}. Use a"
                " weighting, which works with every dtype."
            )
        dtype, m = rows.dtype, len(rows)
        rows = rows.to(torch.promote_types(dtype, torch.float32))
        active = torch.ones(m, dtype=torch.bool) if active is None else active.cpu()
        if not active.all():
            rows[~active] = 0.0
        if state is None:
            state = {key: entry.array(m) for key, entry in self.state_entries.items()}
        direction = self._aggregate(rows, active, names, state, position)
        # Zero times infinity is NaN: an entry that overflowed is never picked away.
        return (direction + (rows * 0.0).sum(0)).to(dtype)
