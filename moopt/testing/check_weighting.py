"""check_weighting: the suite that admits a method to this library, for anybody's own method."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable

from moopt.testing.contract import CONTRACT
from moopt.testing.directions import Build
from moopt.testing.guarantees import GUARANTEES
from moopt.testing.one_batch import OneBatch
from moopt.testing.sampling import NORM_RATIOS, SCALES, Case, all_cases
from moopt.weightings import Weighting

SHOWN = 3
"""Cases that are named for each property that fails."""


def check_weighting(weighting: Weighting | Build, cases: Iterable[Case] | None = None) -> None:
    """Run every rule of the contract, and every guarantee that the method claims, on many cases.

    The contract: inactive rows get weight 0 and influence nothing; float64 weights; leading
    dimensions are independent; auxiliary rows get weight 0; the same input gives the same bits
    and is not written to; the state is complete, flat and not changed in place; NaN and infinity
    raise nothing and give finite weights. A method that needs further samples of the gradients is
    shown the same batch again, in units of its longest gradient. The guarantees: those of
    `weighting.guarantees`, componentwise and relative to `||g_i|| ||d||`. The cases: stationary,
    rank-deficient, duplicate, opposite, near-parallel and zero rows, m = 1 to 10, scales 1e-30 to
    1e30 and norm ratios to 1e8.

    Args:
        weighting: an instance; or, where settings belong to single objectives, a function from
            the positions of the objectives in the step to an instance (their names are
            "objective 0", "objective 1", ...).
        cases: default: every family, m = 1, 2, 3, 5, 10, each scale and each norm ratio.

    Raises:
        TypeError: `weighting` is neither an instance nor such a function.
        ValueError: there are no cases.
        AssertionError: names each rule and guarantee that failed, and the first cases.

    Example:
        >>> import moopt
        >>> from moopt.testing import all_cases, check_weighting
        >>> check_weighting(moopt.MGDA(), all_cases(ms=(1, 3)))

    Numerics: the cases are float64 on the CPU; a few seconds per method.
    """
    build = _fixed(weighting) if isinstance(weighting, Weighting) else weighting
    if isinstance(weighting, type) or not _builds(build):
        raise TypeError(
            "`weighting` of `check_weighting` must be a weighting, or a function from positions to"
            f" one; got {weighting!r}. Write for instance moopt.MGDA()."
        )
    if "auxiliary" in build(range(3)).needs:
        build = _on_one_batch(build)
    chosen = list(default_cases() if cases is None else cases)
    if not chosen:
        raise ValueError(
            "`cases` of `check_weighting` must hold at least one; got none, perhaps from a"
            " generator that was used before. Pass list(all_cases(...))."
        )
    claims = build(range(3)).guarantees
    checks: dict[str, Callable[[Build, Case], None]] = {
        **{f"rule {name!r}": check for name, check in CONTRACT.items()},
        **{f"guarantee {g.value!r}": check for g, check in GUARANTEES.items() if g in claims},
    }
    failures = []
    for name, check in checks.items():
        failed = [problem for case in chosen if (problem := _problem(check, build, case))]
        if failed:
            failures.append(f"{name}: {len(failed)} of {len(chosen)} cases")
            failures += [f"    {problem}" for problem in failed[:SHOWN]]
    if failures:
        raise AssertionError("\n".join([f"{build(range(3))!r} fails", *failures]))


def default_cases() -> Iterable[Case]:
    """Every family at every scale, and at every norm ratio."""
    yield from all_cases(scales=SCALES)
    yield from all_cases(norm_ratios=NORM_RATIOS[1:])


def _fixed(weighting: Weighting) -> Build:
    return lambda positions: weighting


def _builds(build: object) -> bool:
    """Whether it is a function of the positions."""
    return callable(build) and isinstance(build(range(3)), Weighting)


def _on_one_batch(build: Build) -> Build:
    return lambda positions: OneBatch(build(positions), normalize=True)


def _problem(check: Callable[[Build, Case], None], build: Build, case: Case) -> str | None:
    try:
        check(build, case)
    except Exception as error:  # whatever a method raises is its failure, reported with the case
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).strip().splitlines()
        return (
            f"{case!r}: {type(error).__name__} in {where.name}, `{where.line}`"
            f"{': ' + text[0] if text else ''}"
        )
    return None
