"""check_weighting: the suite that admits a method to this library, for anybody's own method."""

import traceback
from collections.abc import Callable, Iterable

from moopt.aggregators import GradientAggregator
from moopt.testing.contract import CONTRACT, check_output
from moopt.testing.directions import Build
from moopt.testing.guarantees import GUARANTEES
from moopt.testing.one_batch import OneBatch
from moopt.testing.sampling import NORM_RATIOS, SCALES, Case, all_cases
from moopt.weightings import Guarantee, Weighting
from moopt.weightings.base import refuse_old_contract

SHOWN = 3
"""Cases that are named for each property that fails."""


def check_weighting(weighting: Weighting | Build, cases: Iterable[Case] | None = None) -> None:
    """Run every rule of the contract, and every guarantee that the method claims, on many cases.

    The contract: inactive rows get weight 0 and influence nothing, not even the next step; float64
    weights, from Gramians of every dtype; leading dimensions are independent; auxiliary rows get
    weight 0; the same input gives the same bits and is not written to; the state is complete, flat
    and not changed in place; NaN and infinity raise nothing and give finite weights; and what
    `needs` does not declare is not looked at. A method that needs
    further samples of the gradients is shown the same batch again, in units of its longest
    gradient. The guarantees: those of `weighting.guarantees`, componentwise and relative to
    `||g_i|| ||d||`, at the first step and, where there is a state, at the second. The cases:
    stationary, rank-deficient, duplicate, opposite, near-parallel and zero rows, m = 1 to 10,
    scales 1e-30 to 1e30 and norm ratios to 1e8.

    Args:
        weighting: an instance; or, where settings belong to single objectives, a function from
            the positions of the objectives in the step to an instance (their names are
            "objective 0", "objective 1", ...).
        cases: default: every family, m = 1, 2, 3, 5, 10, each scale and each norm ratio.

    Raises:
        TypeError: `weighting` is neither an instance nor such a function, or claims what is not
            a `Guarantee`, or the method has no `weigh`.
        ValueError: there are no cases.
        AssertionError: names each rule and guarantee that failed, and the first cases.

    Example:
        >>> import moopt
        >>> from moopt.testing import all_cases, check_weighting
        >>> check_weighting(moopt.MGDA(), all_cases(ms=(1, 3)))

    Numerics: the cases are float64 on the CPU; a few seconds per method.
    """
    build = _fixed(weighting) if isinstance(weighting, Weighting) else weighting
    made = _required(weighting, build)
    if "auxiliary" in made.needs:
        build = _on_one_batch(build)
    if cases is None:  # every family at every scale, and at every norm ratio
        cases = [*all_cases(scales=SCALES), *all_cases(norm_ratios=NORM_RATIOS[1:])]
    chosen = list(cases)
    if not chosen:
        raise ValueError(
            "`cases` of `check_weighting` must hold at least one; got none, perhaps from a"
            " generator that was used before. Pass list(all_cases(...))."
        )
    if unknown := [claim for claim in made.guarantees if not isinstance(claim, Guarantee)]:
        raise TypeError(
            f"`guarantees` of {made!r} must be members of moopt.weightings.Guarantee; got"
            f" {unknown}. Write for instance frozenset({{Guarantee.SIMPLEX}})."
        )
    checks = {f"rule {name!r}": check for name, check in CONTRACT.items()}
    for guarantee, check in GUARANTEES.items():
        if guarantee in made.guarantees:
            checks[f"guarantee {guarantee.value!r}"] = check
    failures: list[str] = []
    for name, check in checks.items():
        failed = [problem for case in chosen if (problem := _problem(check, build, case))]
        if failed:
            failures += [f"{name}: {len(failed)} of {len(chosen)} cases", *failed[:SHOWN]]
        if failed and check is check_output:
            break  # what follows takes an output for granted
    if failures:
        raise AssertionError("\n".join([f"{build(range(3))!r} fails", *failures]))


def _fixed(weighting: Weighting) -> Build:
    return lambda positions: weighting


def _on_one_batch(build: Build) -> Build:
    return lambda positions: OneBatch(build(positions), normalize=True)


def _required(given: object, build: Build) -> Weighting:
    """What `build` makes of three positions; TypeError unless it is a weighting."""
    made, cause = None, None
    try:
        if not isinstance(given, type):  # some classes take the positions for a setting
            made = build(range(3))
    except Exception as error:  # whatever is wrong with it, it is told as the cause
        cause = error
    if isinstance(made, Weighting):
        refuse_old_contract(made)
        return made
    hint = ""
    if isinstance(given, GradientAggregator):
        hint = " Gradient aggregators work on gradients, not on a Gramian, and have no such suite."
    raise TypeError(
        "`weighting` of `check_weighting` must be a weighting, or a function from positions to"
        f" one; got {given!r}. Write for instance moopt.MGDA().{hint}"
    ) from cause


def _problem(check: Callable[[Build, Case], None], build: Build, case: Case) -> str | None:
    """A line that names the case and what fails there; None where nothing does."""
    try:
        check(build, case)
    except Exception as error:  # whatever a method raises is its failure, reported with the case
        text = (str(error).strip().splitlines() or ["no message"])[0]
        if not isinstance(error, AssertionError):
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__} in {where.name}, `{where.line}`: {text}"
        return f"    {case!r}: {text}"
    return None
