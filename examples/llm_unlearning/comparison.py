"""Methods side by side: means over seeds, and what they say, in words generated from data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from examples.llm_unlearning.metrics import Interval, t_interval
from examples.llm_unlearning.metrics.matched_forgetting import MARGIN

if TYPE_CHECKING:
    from rich.table import Table

REFERENCES = ("original", "gold", "gold_other")
#: World-fact NLL (nats per token) this many times the original model's *and* this far above it is
#: called damage: a well-trained original is so close to 0 that a ratio alone means little.
NLL_RATIO, NLL_RISE = 2.0, 0.1
#: A membership AUC this far from gold's is called a leak, or over-forgetting.
AUC_DISTANCE = 0.1

#: Heading, scorecard key, decimals; the table puts the matched utility after "retain acc".
COLUMNS = (
    ("forget acc", "forget_accuracy", 2),
    ("held-out forget", "forget_heldout_accuracy", 2),
    ("retain acc", "retain_accuracy", 2),
    ("world NLL", "world_nll", 2),
    ("KS D", "ks_statistic", 2),
    ("KS p", "ks_pvalue", 2),
    ("MIA AUC", "membership_min_k", 2),
)
MATCHED = "utility at matched forgetting"


@dataclasses.dataclass(frozen=True)
class MethodSummary:
    """One method over all its seeds.

    Attributes:
        name: as in `results`.
        points: seed -> retain utility at matched forgetting, None where it was not reached.
        matched: mean with interval (over seeds; for one seed, over the test set's subjects); None
            unless every seed reached it: a mean over the lucky seeds would flatter.
        scorecard: mean of every metric over seeds; a text where a seed lacks it.
        judged: whether there is a gold model, without which forgetting cannot be matched.
    """

    name: str
    points: Mapping[str, float | None]
    matched: Interval | None
    scorecard: Mapping[str, float | str]
    judged: bool = True

    @property
    def num_reached(self) -> int:
        """How many seeds reached matched forgetting."""
        return sum(point is not None for point in self.points.values())

    @property
    def matched_text(self) -> str:
        """The matched utility as a table cell."""
        if self.matched is not None:
            return str(self.matched)
        if not self.judged:
            return "needs gold"
        return f"reached in {self.num_reached} of {len(self.points)}"


def checked_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `results` as JSON would give it back, or a ValueError that names what is missing.

    Args:
        results: in the form that the docstring of `report` describes.

    Raises:
        ValueError: a section, a method's seed or one of its fields is missing, or a number is NaN.
    """
    for key in ("config", "environment", "seeds", "methods", "references"):
        if key not in results:
            raise ValueError(f"`results` lacks `{key}`; see the docstring of report.py.")
    if not results["methods"]:
        raise ValueError("`results` must hold at least one method; got none. Run one first.")
    for name, method in results["methods"].items():
        for seed, run in method["seeds"].items():
            for key in ("lr", "curve", "records", "scorecard", "matched"):
                if key not in run:
                    raise ValueError(f"`results` of {name!r}, seed {seed}, lack `{key}`.")
    for name, reference in results["references"].items():
        for seed, run in reference["seeds"].items():
            for key in ("scorecard", "row"):
                if key not in run:
                    raise ValueError(f"`results` of {name!r}, seed {seed}, lack `{key}`.")
    methods = {
        name: method | {"seeds": {seed: with_gaps(run) for seed, run in method["seeds"].items()}}
        for name, method in results["methods"].items()
    }
    try:
        return json.loads(json.dumps({**results, "methods": methods}, allow_nan=False))
    except ValueError as error:
        raise ValueError(
            "`results` hold NaN or infinity, which a table cannot show; a metric without its"
            " prerequisite is a text such as 'needs gold'."
        ) from error


def with_gaps(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run whose records lack what was NaN: a weighting without a solver has no gap."""
    return {
        **run,
        "records": [
            {key: value for key, value in row.items() if math.isfinite(value)}
            for row in run["records"]
        ],
    }


def summarise(results: Mapping[str, Any]) -> list[MethodSummary]:
    """One `MethodSummary` per method, in the order of `results`."""
    out = []
    for name, method in results["methods"].items():
        runs = method["seeds"]
        rows = {seed: run["matched"] for seed, run in runs.items()}
        points = {s: None if row is None else row["retain_utility"] for s, row in rows.items()}
        cards = [run["scorecard"] for run in runs.values()]
        out.append(
            MethodSummary(
                name,
                points,
                matched_interval(rows),
                mean_scorecard(cards),
                judged="gold" in results["references"],
            )
        )
    return out


def matched_interval(rows: Mapping[str, Mapping[str, float] | None]) -> Interval | None:
    """Over seeds by Student's t; for one seed the checkpoint's own bootstrap over subjects."""
    reached = [row for row in rows.values() if row is not None]
    if len(reached) < len(rows) or not reached:
        return None
    if len(reached) > 1:
        return t_interval([row["retain_utility"] for row in reached], bounds=(0.0, 1.0))
    row = reached[0]
    ends = row.get("retain_utility_low"), row.get("retain_utility_high")
    return Interval(row["retain_utility"], *ends, num=1)


def mean_scorecard(cards: Sequence[Mapping[str, float | str]]) -> dict[str, float | str]:
    """Key by key; a text such as "needs gold" wins over numbers."""
    out: dict[str, float | str] = {}
    for key in cards[0] if cards else ():
        values = [card[key] for card in cards]
        texts = [value for value in values if isinstance(value, str)]
        out[key] = texts[0] if texts else sum(values) / len(values)
    return out


def reference_scorecards(results: Mapping[str, Any]) -> dict[str, dict[str, float | str]]:
    """Reference name -> mean scorecard, for the references that exist."""
    return {
        name: mean_scorecard([run["scorecard"] for run in reference["seeds"].values()])
        for name in REFERENCES
        if (reference := results["references"].get(name)) is not None
    }


def reference_point(results: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """(forget accuracy, retain utility) of a reference on the curves' examples; None without it.

    Not the scorecard's utility: curves are measured on other phrasings than a scorecard.
    """
    rows = [run["row"] for _, run in seed_runs(results, name)]
    if not rows:
        return None
    forget, kept = (
        sum(row[key] for row in rows) / len(rows) for key in ("forget_accuracy", "retain_utility")
    )
    return forget, kept


def table_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the comparison table: references first, then the methods."""
    headings = ["method", *(heading for heading, _, _ in COLUMNS)]
    headings.insert(4, MATCHED)

    def cells(name: str, card: Mapping[str, float | str], matched: str) -> list[str]:
        row = [name, *(number(card[key], decimals) for _, key, decimals in COLUMNS)]
        row.insert(4, matched)
        return row

    rows = []
    for name, card in reference_scorecards(results).items():
        kept = "does not forget"
        if name != "original":
            kept = number(reference_point(results, name)[1], 3)
        rows.append(cells(name.replace("_other", " (other seed)"), card, kept))
    rows += [cells(s.name, s.scorecard, s.matched_text) for s in summarise(results)]
    return headings, rows


def number(value: float | str, decimals: int) -> str:
    """A cell: a rounded number, or the text that says what is missing."""
    if isinstance(value, str):
        return value
    return f"<{10**-decimals}" if 0 < value < 0.5 * 10**-decimals else f"{value:.{decimals}f}"


def summary_table(results: Mapping[str, Any]) -> Table:
    """The comparison table for a terminal of 100 columns.

    Args:
        results: in the form that the docstring of `report` describes.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich import box
        from rich.table import Table
    except ImportError as error:
        raise ImportError("the table needs rich: pip install rich") from error
    results = checked_results(results)
    headings, rows = table_rows(results)
    num_seeds = len(results["seeds"])
    over = f"mean of {num_seeds} seeds" if num_seeds > 1 else "one seed"
    table = Table(
        title=f"Unlearning, {over}; brackets: 95 % interval",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        width=100,
    )
    widths = dict.fromkeys(headings, 6) | {"held-out forget": 8, MATCHED: 20, "KS D": 5, "KS p": 5}
    for i, heading in enumerate(headings):
        if i == 0:
            table.add_column(heading, ratio=1, overflow="fold")
        else:
            table.add_column(heading, justify="right", width=widths[heading])
    split = sum(name in results["references"] for name in REFERENCES)
    for i, row in enumerate(rows):
        table.add_row(*row, end_section=i == split - 1)
    return table


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


def seed_runs(results: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(seed, run) of one method or reference, in the order of the seeds."""
    entry = results["methods"].get(name) or results["references"].get(name, {"seeds": {}})
    return list(entry["seeds"].items())
