"""registry: one row per weighting, for names, documentation and the conformance suite."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from moopt.weightings.aligned_mtl import AlignedMTL
from moopt.weightings.base import Guarantee, Weighting
from moopt.weightings.blur import BLUR
from moopt.weightings.cagrad import CAGrad
from moopt.weightings.con_fig import ConFIG
from moopt.weightings.constant import Constant
from moopt.weightings.cr_mogm import CRMOGM
from moopt.weightings.db_mtl import DBMTL
from moopt.weightings.dual_proj import DualProj
from moopt.weightings.dual_space_mgda import DualSpaceMGDA
from moopt.weightings.epo import EPO
from moopt.weightings.fairgrad import FairGrad
from moopt.weightings.grad_norm import GradNorm
from moopt.weightings.gradvac import GradVac
from moopt.weightings.gru import GRU
from moopt.weightings.hamu import HAMU
from moopt.weightings.imtl_g import IMTLG
from moopt.weightings.krum import Krum
from moopt.weightings.mean import Mean
from moopt.weightings.mgda import MGDA
from moopt.weightings.modo import MoDo
from moopt.weightings.nash_mtl import NashMTL
from moopt.weightings.ngdiff import NGDiff
from moopt.weightings.ntk import NTK
from moopt.weightings.orthogonal_steepest_descent import OrthogonalSteepestDescent
from moopt.weightings.pcd import PCD
from moopt.weightings.pcgrad import PCGrad
from moopt.weightings.pmgda import PMGDA
from moopt.weightings.pmtl import PMTL
from moopt.weightings.random_weights import Random
from moopt.weightings.sdmgrad import SDMGrad
from moopt.weightings.sdmgrad_stochastic import SDMGradStochastic
from moopt.weightings.sum import Sum
from moopt.weightings.upgrad import UPGrad


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredWeighting:
    """What is known about a weighting without reading its file.

    Attributes:
        weighting_class: the class, of a weighting, scalarization or gradient aggregator;
            `settings` its default hyper-parameters.
        year: of the publication; None where there is no single origin.
        required: hyper-parameters without a default, each with an example for three objectives
            named "forget", "retain" and "third"; a method with any has no registered instance.

    Example:
        >>> from moopt.weightings import WEIGHTINGS
        >>> WEIGHTINGS["MGDA"].settings["normalize"]
        'none'
    """

    weighting_class: type[Any]
    year: int | None
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The registered name, which is the class's."""
        return self.weighting_class.name

    @property
    def source(self) -> str:
        """Authors, title, venue, year."""
        return self.weighting_class.source

    @property
    def settings(self) -> dict[str, Any]:
        """The default hyper-parameters, without the required ones."""
        default = self.example()
        # Not `dataclasses.asdict`, which would take a nested weighting apart.
        return {
            field.name: getattr(default, field.name)
            for field in dataclasses.fields(default)
            if field.name not in self.required
        }

    def example(self) -> Any:
        """An instance for three objectives named "forget", "retain" and "third"."""
        return self.build(**self.required)

    def build(self, **settings: Any) -> Any:
        """An instance with the given hyper-parameters in place of the default ones."""
        missing = [name for name in self.required if name not in settings]
        if missing:
            shown = ", ".join(f"{name}={self.required[name]!r}" for name in missing)
            module = self.weighting_class.__module__.rpartition(".")[0]
            raise ValueError(
                f"`{self.name}` needs {missing}, which a name cannot give. Pass an instance, such"
                f" as {module}.{self.name}({shown})."
            )
        return self.weighting_class(**settings)

    def guarantees(self, **settings: Any) -> frozenset[Guarantee]:
        """The promises under the given settings, and the example's where one is required."""
        return frozenset(self._with(settings).guarantees)

    def needs(self, **settings: Any) -> frozenset[str]:
        """The optional fields of `StepStatistics` that it needs, settings likewise."""
        return frozenset(self._with(settings).needs)

    def stateful(self, **settings: Any) -> bool:
        """Whether it carries a state from step to step, settings likewise."""
        return bool(self._with(settings).state_axes)

    def _with(self, settings: Mapping[str, Any]) -> Any:
        return self.build(**{**self.required, **settings})


ROLES: Mapping[str, Any] = MappingProxyType({"forget": "forget", "retain": ("retain", "third")})

WEIGHTINGS: Mapping[str, RegisteredWeighting] = MappingProxyType(
    {
        row.name: row
        for row in (
            RegisteredWeighting(weighting_class=MGDA, year=2012),
            RegisteredWeighting(weighting_class=DualSpaceMGDA, year=2025),
            RegisteredWeighting(weighting_class=CRMOGM, year=2022),
            RegisteredWeighting(weighting_class=PCGrad, year=2020),
            RegisteredWeighting(weighting_class=NGDiff, year=2025, required=ROLES),
            RegisteredWeighting(weighting_class=GRU, year=2025, required=ROLES),
            RegisteredWeighting(weighting_class=BLUR, year=2026, required=ROLES),
            RegisteredWeighting(weighting_class=IMTLG, year=2021),
            RegisteredWeighting(weighting_class=ConFIG, year=2025),
            RegisteredWeighting(
                weighting_class=OrthogonalSteepestDescent, year=2025, required=ROLES
            ),
            RegisteredWeighting(weighting_class=HAMU, year=2026, required=ROLES),
            RegisteredWeighting(
                weighting_class=PCD,
                year=2026,
                required={"primary": "forget", "secondary": ("retain", "third")},
            ),
            RegisteredWeighting(weighting_class=AlignedMTL, year=2023),
            RegisteredWeighting(weighting_class=GradVac, year=2021),
            RegisteredWeighting(weighting_class=Random, year=2022),
            RegisteredWeighting(weighting_class=Krum, year=2017),
            RegisteredWeighting(weighting_class=NTK, year=2020),
            RegisteredWeighting(weighting_class=DBMTL, year=2023),
            RegisteredWeighting(weighting_class=GradNorm, year=2018),
            RegisteredWeighting(weighting_class=Mean, year=None),
            RegisteredWeighting(weighting_class=Sum, year=None),
            RegisteredWeighting(weighting_class=DualProj, year=2017),
            RegisteredWeighting(weighting_class=UPGrad, year=2024),
            RegisteredWeighting(weighting_class=CAGrad, year=2021),
            RegisteredWeighting(weighting_class=NashMTL, year=2022),
            RegisteredWeighting(weighting_class=FairGrad, year=2024),
            RegisteredWeighting(weighting_class=SDMGrad, year=2023),
            RegisteredWeighting(weighting_class=MoDo, year=2023),
            RegisteredWeighting(weighting_class=SDMGradStochastic, year=2023),
            RegisteredWeighting(weighting_class=EPO, year=2020),
            RegisteredWeighting(weighting_class=PMGDA, year=2024),
            RegisteredWeighting(
                weighting_class=PMTL,
                year=2019,
                required={"preferences": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))},
            ),
            RegisteredWeighting(
                weighting_class=Constant, year=None, required={"weights": (1.0, 1.0, 1.0)}
            ),
        )
    }
)
"""The registered weightings by name."""


def weighting_from_name(
    name: str, rows: Mapping[str, RegisteredWeighting] = WEIGHTINGS
) -> Weighting:
    """Return the weighting registered under a name, with its default hyper-parameters.

    Args:
        name: of one of `rows`; case, "-" and "_" do not matter.
        rows: by default `WEIGHTINGS`.

    Raises:
        ValueError: if the name is unknown, or the method has no defaults.

    Example:
        >>> from moopt.weightings import weighting_from_name
        >>> weighting_from_name("dual_space_mgda").name
        'DualSpaceMGDA'
    """
    names = {_plain(row_name): row_name for row_name in rows}
    wanted = _plain(name)
    if wanted in names:
        method: Weighting = rows[names[wanted]].build()
        return method
    close = difflib.get_close_matches(wanted, names, n=1)
    meant = f" Did you mean {names[close[0]]!r}?" if close else ""
    raise ValueError(
        f"`weighting` must be the name of a registered weighting; got {name!r}.{meant} Choose one"
        f" of {', '.join(rows)}."
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
