"""SAGO: the forget gradient, but where it would work against the retain gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from moopt.aggregators.base import State
from moopt.aggregators.entrywise import EntrywiseAggregator
from moopt.settings.roles import membership, refuse_overlap, role_names
from moopt.weightings import Guarantee


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAGO(EntrywiseAggregator):
    """Entry by entry: the retain gradient where the signs conflict, the forget gradient elsewhere.

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
    protected, not each. No synchronisation.

    Example:
        >>> import torch
        >>> from moopt.aggregators import SAGO
        >>> rows = torch.tensor([[1.0, 1.0, 2.0], [3.0, -3.0, 0.0]])
        >>> SAGO(forget="f", retain="r")(rows, names=("f", "r")).tolist()
        [1.0, -3.0, 2.0]

    Source: "Modeling LLM Unlearning as an Asymmetric Two-Task Learning Problem", ACL 2026 (arXiv
    2604.14808), Z. Xiao, S. Li, Y. Wang, X. Wei, J. Yang, Y. Chen and G. Chen; the rule is that of
    its authors' code, whose default keeps the forget gradient alone where the signs agree.
    Several objectives in one role are ours.
    """

    forget: str | Sequence[str]
    retain: str | Sequence[str]

    name: ClassVar[str] = "SAGO"
    source: ClassVar[str] = (
        "Z. Xiao, S. Li, Y. Wang, X. Wei, J. Yang, Y. Chen and G. Chen, Modeling LLM Unlearning as"
        " an Asymmetric Two-Task Learning Problem, ACL 2026"
    )

    def __post_init__(self) -> None:
        for keyword in ("forget", "retain"):
            names = role_names(getattr(self, keyword), keyword, self.name)
            object.__setattr__(self, keyword, names)
        refuse_overlap(self._roles, self.name)

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        promises = {Guarantee.POSITIVELY_HOMOGENEOUS}
        if len(self.forget) == len(self.retain) == 1:
            promises.add(Guarantee.IDEMPOTENT)
        return frozenset(promises)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"names"})

    @property
    def _roles(self) -> dict[str, tuple[str, ...]]:
        return {"forget": tuple(self.forget), "retain": tuple(self.retain)}

    def _aggregate(
        self, rows: Tensor, active: Tensor, names: Sequence[str] | None, state: State, position: int
    ) -> Tensor:
        forget, retain = self._positions(names, rows.shape[0])
        wanted, kept = (
            torch.stack([rows[i] for i in positions]).sum(0) if positions else None
            for positions in (forget, retain)
        )
        if wanted is None or kept is None:
            alone = kept if wanted is None else wanted
            return torch.zeros_like(rows[0]) if alone is None else alone
        # A role without an active objective is absent too.
        present = (membership(forget, rows.shape[0], rows.device) & active).any()
        return torch.where((wanted.sign() * kept.sign() < 0) | ~present, kept, wanted)

    def _positions(self, names: Sequence[str] | None, m: int) -> tuple[list[int], list[int]]:
        if names is None:
            raise ValueError(
                "`SAGO` needs the objectives' names; got none. Pass the losses as a mapping."
            )
        roles = self._roles
        without = [name for name in names if name not in roles["forget"] + roles["retain"]]
        if without:
            raise ValueError(
                f"`SAGO` must know the role of every objective; {without} have none in {roles}."
                " Name each in one of `forget`, `retain`."
            )
        forget, retain = (
            [i for i, name in enumerate(names) if name in roles[role]]
            for role in ("forget", "retain")
        )
        return forget, retain
