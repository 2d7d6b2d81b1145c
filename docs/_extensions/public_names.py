"""Sphinx extension: warn (an error under `-W`) about a public name that no page documents."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

logger = logging.getLogger(__name__)


def undocumented(modules: Iterable[str], documented: Iterable[str]) -> list[str]:
    """Public names (`module.name` for every name in `__all__`) that `documented` does not hold.

    A name that is exported twice is one object and needs one entry, under either name.

    Args:
        modules: importable module names, each with an `__all__`.
        documented: fully qualified names that have an entry in the documentation.

    Returns:
        The missing names, sorted.
    """
    aliases: dict[int, set[str]] = {}
    for module in modules:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            if name == "__version__":
                continue
            aliases.setdefault(id(getattr(loaded, name)), set()).add(f"{module}.{name}")
    present = set(documented)
    return sorted(min(names, key=len) for names in aliases.values() if not names & present)


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    documented = env.get_domain("py").objects.keys()
    for name in undocumented(app.config.public_modules, documented):
        logger.warning("%s is public but documented nowhere; add it to a page in docs/api", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the check."""
    app.add_config_value("public_modules", [], "env")
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
