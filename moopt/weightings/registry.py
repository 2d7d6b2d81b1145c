"""registry: one row per method, for names, documentation and the conformance suite."""

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from moopt.weightings.base import Guarantee, Weighting


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredWeighting:
    """What is known about a method without reading its file; all of it follows from the class.

    Attributes:
        weighting_class: the class, of a weighting, scalarization or gradient aggregator.

    Example:
        >>> from moopt.weightings import WEIGHTINGS
        >>> WEIGHTINGS["MGDA"].settings["normalize"]
        'none'
    """

    weighting_class: type[Any]

    @property
    def name(self) -> str:
        """The registered name, which is the class's."""
        return self.weighting_class.name

    @property
    def source(self) -> str:
        """Authors, title, venue, year, a link, and how the class differs."""
        return self.weighting_class.source

    @property
    def year(self) -> int | None:
        """Of the publication; None where there is no single origin."""
        return self.weighting_class.year

    @property
    def required(self) -> Mapping[str, Any]:
        """Hyper-parameters without a default, each with an example for three objectives named
        "forget", "retain" and "third"; a method with any has no registered instance.
        """
        return self.weighting_class.example

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
        """The optional fields of `StepStatistics` that it needs, under the same settings."""
        return frozenset(self._with(settings).needs)

    def stateful(self, **settings: Any) -> bool:
        """Whether it carries a state from step to step, under the same settings."""
        return bool(self._with(settings).state_axes)

    def _with(self, settings: Mapping[str, Any]) -> Any:
        return self.build(**{**self.required, **settings})


def registered(package: str) -> Mapping[str, RegisteredWeighting]:
    """One row for each method that a package has imported so far, in the order of the imports.

    A method is a class with a `name`. A package imports its methods first and its registry last.

    Args:
        package: the name of a package whose import has begun.
    """
    methods: list[type[Any]] = [
        thing
        for thing in vars(sys.modules[package]).values()
        if isinstance(thing, type) and isinstance(getattr(thing, "name", None), str)
    ]
    return MappingProxyType({m.name: RegisteredWeighting(weighting_class=m) for m in methods})


WEIGHTINGS: Mapping[str, RegisteredWeighting] = registered("moopt.weightings")
"""The registered weightings by name."""

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {"mgda_l2": ("MGDA", {"normalize": "l2"}), "default": ("MGDA", {"normalize": "l2"})}
)
"""Further names: of a method and settings. The default is what `CommonDescent` uses by itself."""


def weighting_from_name(
    name: str, rows: Mapping[str, RegisteredWeighting] = WEIGHTINGS
) -> Weighting:
    """Return the weighting registered under a name, with its default hyper-parameters.

    Args:
        name: of one of `rows`; case, "-" and "_" do not matter. "mgda_l2", which is also the
            "default", is `MGDA(normalize="l2")`.
        rows: by default `WEIGHTINGS`.

    Raises:
        ValueError: if the name is unknown, or the method has no defaults.

    Example:
        >>> from moopt.weightings import weighting_from_name
        >>> weighting_from_name("dual_space_mgda").name
        'DualSpaceMGDA'
        >>> weighting_from_name("mgda_l2").normalize
        'l2'
    """
    variants = {key: made for key, made in VARIANTS.items() if made[0] in rows}
    names = {_plain(key): key for key in (*rows, *variants)}
    wanted = _plain(name)
    if wanted in names:
        key, settings = variants.get(names[wanted], (names[wanted], {}))
        method: Weighting = rows[key].build(**settings)
        return method
    close = difflib.get_close_matches(wanted, names, n=1)
    meant = f" Did you mean {_told(names[close[0]], variants)}?" if close else ""
    raise ValueError(
        f"`weighting` must be the name of a registered weighting; got {name!r}.{meant} Choose one"
        f" of {', '.join((*rows, *variants))}."
    )


def _told(key: str, variants: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    """A name to suggest, with its meaning where names of one method differ in settings."""
    if key in variants:
        method, settings = variants[key]
        shown = ", ".join(f"{field}={value!r}" for field, value in settings.items())
        return f"{key!r}, which is {method}({shown})"
    other = next((variant for variant, made in variants.items() if made[0] == key), None)
    return f"{key!r}, or {_told(other, variants)}" if other else repr(key)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
