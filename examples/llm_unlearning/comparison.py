"""Methods side by side: means over seeds, and a table that fits a terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from examples.llm_unlearning.metrics import Interval, t_interval

if TYPE_CHECKING:
    from rich.table import Table

REFERENCES = ("original", "gold", "gold_other")
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
CAPTION = (
    "gold was retrained without the forget set: forget as much as it does, and keep the most by"
    " then (utility at matched forgetting). The report explains each column."
)


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
    try:
        return json.loads(json.dumps(results, allow_nan=False))
    except ValueError as error:
        raise ValueError(
            "`results` hold NaN or infinity, which a table cannot show; a metric without its"
            " prerequisite is a text such as 'needs gold'."
        ) from error


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
        caption=CAPTION,
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


def seed_runs(results: Mapping[str, Any], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(seed, run) of one method or reference, in the order of the seeds."""
    entry = results["methods"].get(name) or results["references"].get(name, {"seeds": {}})
    return list(entry["seeds"].items())
