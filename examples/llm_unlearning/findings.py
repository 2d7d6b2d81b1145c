"""What a run shows, in sentences generated from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from examples.llm_unlearning.comparison import (
    MethodSummary,
    checked_results,
    reference_scorecards,
    summarise,
)
from examples.llm_unlearning.metrics import t_interval
from examples.llm_unlearning.metrics.matched_forgetting import MARGIN

#: World-fact NLL (nats per token) this many times the original model's *and* this far above it is
#: called damage: a well-trained original is so close to 0 that a ratio alone means little.
NLL_RATIO, NLL_RISE = 2.0, 0.1
#: A membership AUC this far from gold's is called a leak, or over-forgetting.
AUC_DISTANCE = 0.1


def findings(results: Mapping[str, Any]) -> list[str]:
    """What the run shows, one sentence or two per finding, losses and ties as plainly as wins."""
    results = checked_results(results)
    summaries = summarise(results)
    ranked = sorted((s for s in summaries if s.matched is not None), key=lambda s: -s.matched.mean)
    out = []
    if "gold" not in results["references"]:
        out.append("There is no gold model in this run, so matched forgetting cannot be judged.")
    if ranked:
        out.append(leader(ranked))
        ours = [s for s in ranked if s.name.startswith("MOLLM")]
        rivals = [s for s in ranked if not s.name.startswith("MOLLM")]
        out += [standing(s, rivals) for s in ours if rivals]
    elif "gold" in results["references"]:
        out.append("No method reached matched forgetting in every seed, so none is ranked.")
    out += [
        f"{s.name} reached matched forgetting in {s.num_reached} of {len(s.points)} seeds and is"
        " not ranked."
        for s in summaries
        if s.matched is None and s.judged
    ]
    out += side_effects(results, summaries)
    if len(results["seeds"]) == 1 and len(summaries) > 1:
        out.append(
            "One seed: the intervals say how well the test set pins each number down, and nothing"
            " about how it varies from one training run to the next. Do not rank methods on it;"
            " the full run has at least five seeds."
        )
    return out


def leader(ranked: Sequence[MethodSummary]) -> str:
    """The sentence about the method with the highest utility at matched forgetting."""
    best = ranked[0]
    rule = (
        "(Matched forgetting: the first checkpoint whose forget accuracy is at most the gold"
        f" model's + {MARGIN}.)"
    )
    if len(ranked) == 1:
        return f"{best.name} has retain utility {best.matched} at matched forgetting. {rule}"
    text = f"{best.name} keeps the most at matched forgetting: retain utility {best.matched}."
    text += f" {rule} Below, 'tied' means that two 95 % intervals overlap."
    second = ranked[1]
    return text + f" The next is {second.name}, {comparison(best, second)}."


def comparison(first: MethodSummary, second: MethodSummary) -> str:
    """How far `second` is from `first`, and whether their intervals overlap."""
    difference = first.matched.mean - second.matched.mean
    text = f"{abs(difference):.3f} {'lower' if difference >= 0 else 'higher'}"
    overlap = first.matched.overlaps(second.matched)
    if overlap is None:
        text += ", without intervals to compare"
    else:
        text += ", intervals overlap" if overlap else ", intervals do not overlap"
    seeds = [s for s in first.points if s in second.points]
    if len(seeds) > 1:
        # A seed retrains the original model for all methods, so they can be compared in pairs.
        paired = t_interval([first.points[s] - second.points[s] for s in seeds])
        text += f" (paired by seed: {paired.mean:+.3f} [{paired.low:+.3f}, {paired.high:+.3f}])"
    return text


def standing(ours: MethodSummary, rivals: Sequence[MethodSummary]) -> str:
    """Which rivals one method of ours beats, ties with and loses to."""
    groups: dict[str, list[str]] = {"ahead of": [], "tied with": [], "behind": []}
    for rival in rivals:
        difference = ours.matched.mean - rival.matched.mean
        overlap = ours.matched.overlaps(rival.matched)
        group = "tied with" if overlap is not False else "ahead of" if difference > 0 else "behind"
        groups[group].append(f"{rival.name} ({difference:+.3f})")
    parts = [f"{group} {listed(names)}" for group, names in groups.items() if names]
    return f"{ours.name} at matched forgetting is " + "; ".join(parts) + "."


def side_effects(results: Mapping[str, Any], summaries: Sequence[MethodSummary]) -> list[str]:
    """Damage that the headline does not show: world facts, membership, divergence."""
    references = reference_scorecards(results)
    out = []
    base = references.get("original", {}).get("world_nll")
    if isinstance(base, float):
        levels = {s.name: s.scorecard["world_nll"] for s in summaries}
        limit = max(NLL_RATIO * base, base + NLL_RISE)
        damaged = [
            f"{name} ({level:.2f})"
            for name, level in levels.items()
            if isinstance(level, float) and level > limit
        ]
        out.append(
            f"World facts, which nobody asked to forget, got worse under {listed(damaged)}, in nats"
            f" per token; the original model has {base:.3f}."
            if damaged
            else f"World facts survived every method: none has an NLL above {limit:.2f} nats per"
            f" token (original {base:.3f})."
        )
    gold = references.get("gold", {}).get("membership_min_k")
    if isinstance(gold, float):
        levels = {s.name: s.scorecard["membership_min_k"] for s in summaries}
        far = [
            f"{name} ({level:.2f})"
            for name, level in levels.items()
            if isinstance(level, float) and abs(level - gold) > AUC_DISTANCE
        ]
        out.append(
            f"An attacker can tell these from the gold model by their membership AUC (gold"
            f" {gold:.2f}; higher leaks, lower has over-forgotten): {listed(far)}."
            if far
            else f"No method's membership AUC is further than {AUC_DISTANCE:g} from the gold"
            f" model's {gold:.2f}."
        )
    diverged = [s.name for s in summaries if s.scorecard["num_nonfinite"]]
    if diverged:
        out.append(f"The kept model returns NaN or infinite log-probabilities: {listed(diverged)}.")
    return out


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
