"""GradDrop: one sign for every entry, drawn by how pure it is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moopt.aggregators.entrywise import EntrywiseAggregator
from moopt.settings.fields import integer, per_objective
from moopt.settings.numbers import check_number
from moopt.settings.preference import Preference, checked_vector, numbers_in_order
from moopt.weightings.base import Guarantee, State, StateEntry
from moopt.weightings.draws import COUNTER, draws


def _shares(given: Preference | None, owner: str, name: str) -> Preference | None:
    """A frozen copy of a number in [0, 1] for each objective."""
    shares = checked_vector(given, owner, name)
    for key, value in shares.items() if isinstance(shares, Mapping) else enumerate(shares or ()):
        check_number(owner, f"{name}[{key!r}]", value, "in [0, 1]", use="0")
    return shares


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradDrop(EntrywiseAggregator):
    """Entry by entry, keep the gradients of one sign, drawn with the probability of its purity.

    Use it where a direction should not average gradients of opposite sign; it is random.

    `P = (1 + sum_i g_i / sum_i |g_i|) / 2` is the share of positive sign; with U uniform in [0, 1)
    the positive gradients are added up where `P > U`, the negative ones elsewhere:
    `d = sum_i (leak_i + (1 - leak_i) M_i) g_i`, M_i the mask. So no entry of d (without leak) mixes
    signs, and its expectation is between the sums of both.

    Args:
        leak: in [0, 1], the share of a gradient that passes whatever its sign; a sequence in the
            order of the objectives, or a mapping from objective name; None means 0.
        seed: any integer; default 0. The numbers of step k are a function of `seed`, k and the
            entry alone, so a resumed run goes on where it stopped.

    Raises:
        TypeError: if `leak` is not made of numbers, or `seed` not an integer.
        ValueError: if a leak is out of range; at the call, if an objective has none.

    Numerics: an entry where all gradients are 0 stays 0. The uniform numbers of one parameter are
    drawn on the host, in steps of 2^-24.

    Example:
        >>> import torch
        >>> from moopt.aggregators import GradDrop
        >>> direction = GradDrop()(torch.tensor([[1.0, 2.0, -1.0], [3.0, 4.0, 5.0]]))
        >>> direction[:2].tolist(), direction[2].item() in (5.0, -1.0)
        ([4.0, 6.0], True)

    Source: Z. Chen, J. Ngiam, Y. Huang, T. Luong, H. Kretzschmar, Y. Chai and D. Anguelov, "Just
    Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout", NeurIPS 2020,
    https://arxiv.org/abs/2010.06808, Algorithm 1, with the identity as the function of P. The paper
    applies it to the gradients of a layer's activations; here it acts on those of the parameters.
    """

    leak: Preference | None = per_objective(_shares)
    seed: int = integer(0)

    state_entries: ClassVar[Mapping[str, StateEntry]] = {COUNTER: StateEntry(0, 0, int)}

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.leak is None:
            promises.add(Guarantee.PERMUTATION_EQUIVARIANT)
        return frozenset(promises)

    def next_state(self, state: State) -> State:
        """The next draw."""
        return {COUNTER: state[COUNTER] + 1}

    def _aggregate(
        self, rows: Tensor, active: Tensor, names: Sequence[str] | None, state: State, position: int
    ) -> Tensor:
        total = rows.abs().sum(0)
        purity = 0.5 * (1.0 + rows.sum(0) / total.where(total > 0, 1.0))
        generator = draws(self.seed, int(state[COUNTER]), position)
        uniform = generator.random(rows.shape[1:], dtype=np.float32)
        positive = purity > torch.as_tensor(uniform, device=rows.device)
        kept = torch.where(positive, rows > 0, rows < 0).to(rows.dtype)
        if self.leak is not None:
            numbers = numbers_in_order(self.leak, names, len(rows), self.name, "leak")
            leak = rows.new_tensor(numbers).reshape(-1, *[1] * (rows.ndim - 1))
            kept = leak + (1.0 - leak) * kept
        return (kept * rows).sum(0)
