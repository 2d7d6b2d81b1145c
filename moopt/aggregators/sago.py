"""SAGO: the forget gradient, but where it would work against the retain gradient."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from moopt.aggregators.entrywise import EntrywiseAggregator
from moopt.settings.roles import positions_of
from moopt.weightings.base import Guarantee, State
from moopt.weightings.forget_retain import ForgetRetainRoles


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAGO(ForgetRetainRoles, EntrywiseAggregator):
    """Take the retain gradient in entries where the signs conflict, else the forget gradient.

    Use it for unlearning where retention must not suffer, even if forgetting does.

    `d_k = g_r,k` where `g_f,k g_r,k < 0` and `g_f,k` elsewhere. No entry of d works against the
    retain gradient, so `g_r . d >= 0`: to first order retention never suffers. Forgetting may:
    `g_f . d` can be negative.

    Signs: moopt minimises every loss, so `g_f` is the gradient of the *minimised* forget loss.

    Args:
        forget: the name of the forget objective, or several names: their gradients are added up.
        retain: the name of the retain objective, or several names: their gradients are added up.

    Raises:
        TypeError: if a name is not a string.
        ValueError: if a role is empty, or an objective has two; at the call, if the step has no
            names or an objective without a role.

    Numerics: signs are compared, not products, so that small gradients do not vanish. With one role
    absent from a step, d is the gradient of the other. With several retain objectives their sum is
    protected, not each.

    Example:
        >>> import torch
        >>> from moopt.aggregators import SAGO
        >>> rows = torch.tensor([[1.0, 1.0, 2.0], [3.0, -3.0, 0.0]])
        >>> SAGO(forget="f", retain="r")(rows, names=("f", "r")).tolist()
        [1.0, -3.0, 2.0]

    Source: Xiao, Li, Wang, Wei, Yang, Chen and Chen, "Modeling LLM Unlearning as an Asymmetric
    Two-Task Learning Problem", ACL 2026, https://arxiv.org/abs/2604.14808; the rule is that of the
    authors' code, whose default keeps the forget gradient alone where the signs agree. Several
    objectives in one role are our addition.
    """

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if self.is_pair:
            promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    def _aggregate(
        self, rows: Tensor, active: Tensor, names: Sequence[str] | None, state: State, position: int
    ) -> Tensor:
        roles = positions_of(None if names is None else tuple(names), self._roles, self.name)
        present = [[i for i in role if active[i]] for role in roles]
        forget, retain = (rows[role].sum(0) for role in present)
        if not all(present):
            return forget + retain  # of which one is zero
        return torch.where(forget.sign() * retain.sign() < 0, retain, forget)
