"""`results.json` -> `report.html`: one self-contained page that says what was run and found.

The page embeds every picture, loads nothing from anywhere, and prints. `run.py` writes
`results.json` in this form, and `write_report`, `write_plots` and `summary_table` read it:

    {
      "config":      {"preset": "demo", "authors": 120, ...}           any nesting of plain values
      "environment": {"python": "3.11.7", "torch": "2.13.0", "commit": "...", ...}
      "seeds":       [0, 1, ...]
      "methods": {
        "MOLLM dual_basis": {               the name shown; methods appear in this order
          "seeds": {
            "0": {                          the seed, as text
              "lr": 3e-4,                   chosen on the validation split
              "curve": [                    one row per checkpoint, the first at evaluations 0
                {"evaluations": 0, "forget_accuracy": .97, "retain_utility": .93, ...}, ...],
              "records": [StepRecord.as_dict() rows, in order],   may be empty
              "scorecard": {...},           of the matched checkpoint, else of the last one
              "matched": {"evaluations": 120, "forget_accuracy": .08, "retain_utility": .9} or None
            }, ...}}, ...},
      "references": {                       "gold" and "gold_other" may be absent
        "original":   {"seeds": {"0": {"scorecard": {...}, "row": {...}}, ...}},
        "gold":       {"seeds": {"0": {"scorecard": {...}, "row": {...}}, ...}},
        "gold_other": {"seeds": {"0": {"scorecard": {...}, "row": {...}}, ...}}}
    }

`evaluations` counts gradient evaluations (backward passes), the budget all methods share.
`matched` is `metrics.matched_checkpoint(curve, gold_accuracy)`'s row, None where the method never
forgot as much as the gold model. `scorecard.checkpoint_row` makes the rows of `curve`.
`row` is the reference's own `checkpoint_row` on the curves' examples, so that it can be compared
with them. Scorecards and curves hold no NaN; records may (a weighting without a solver has no gap).
A run without `config["preset"]` is a user's own model and data.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.llm_unlearning.comparison import (
    checked_results,
    number,
    reference_scorecards,
    summarise,
    summary_table,
    table_rows,
)
from examples.llm_unlearning.findings import findings, listed
from examples.llm_unlearning.plots import slug, write_plots

__all__ = ["summary_table", "write_plots", "write_report"]

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; color: #222; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin-bottom: .25rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
p, li { max-width: 46rem; }
.lead { color: #555; margin-top: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: right; border-bottom: 1px solid #e6e6e6; }
th { vertical-align: bottom; border-bottom: 1.5px solid #888; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tr.reference td { background: #f6f6f6; }
td.missing { color: #8a5a00; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; max-width: 46rem; }
.note { background: #f3f7fb; border-left: 4px solid #0072b2; padding: .6rem 1rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
}
"""

RECONSTRUCTION = """
<p class="note">MOLLM here is a <strong>reconstruction</strong>. The paper (arXiv 2412.20412,
ICASSP 2025) released no code; its problem (forget loss, KL and cross-entropy on retain data, a
common descent direction from dual-space MGDA) is known, the direction's closed form is not, and
the forget loss is taken from the authors' sibling code. The variants named here are our candidates.
{scope}</p>
"""
SYNTHETIC = """All numbers come from a small language model trained on synthetic facts; they compare
methods under one budget, and say nothing about the paper's own results or about large models."""
OWN_DATA = """Its claims were measured on a small language model trained on synthetic facts; the
numbers on this page are of your own model and data."""

LEGEND = (
    ("forget acc", "share of forget questions answered word for word; near gold is the aim"),
    ("held-out forget", "the same facts asked in phrasings that were never trained"),
    ("retain acc", "share of retain questions answered word for word"),
    (
        "utility at matched forgetting",
        "harmonic mean of probability, ROUGE-L recall and truth ratio on retain data, at the first"
        " checkpoint that forgot as much as the gold model (forget accuracy at most gold's + 0.05)",
    ),
    ("world NLL", "nats per token on world facts; lower is better"),
    (
        "KS D, KS p",
        "Kolmogorov-Smirnov distance and p-value between the truth ratios of this and of the gold"
        " model on the forget set; the gold row shows the ceiling (gold against another gold), the"
        " original row the floor",
    ),
    (
        "MIA AUC",
        "how well min-k tells forgotten authors from authors never seen; near gold's is the aim,"
        " lower is over-forgetting",
    ),
)


def write_report(results: Mapping[str, Any], directory: Path) -> Path:
    """Write `report.html` and the pictures that it embeds.

    Args:
        results: in the form described above.
        directory: where to; made where it is missing.

    Returns:
        The path of `report.html`, which loads nothing from anywhere, not even its pictures.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `results` are not in that form.
    """
    results = checked_results(results)
    pictures = {path.stem: path for path in write_plots(results, directory)}
    page = directory / "report.html"
    page.write_text("\n".join(parts(results, pictures)), encoding="utf-8")
    return page


def parts(results: Mapping[str, Any], pictures: Mapping[str, Path]) -> Iterator[str]:
    """The page, section by section."""
    seeds = results["seeds"]
    over = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    preset = results["config"].get("preset")
    gold = "gold" in results["references"]
    title = "Unlearning in a small language model" if preset else "Unlearning in your own model"
    yield "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    yield "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    yield f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    what = f"Preset {escaped(preset)}: " if preset else ""
    yield f"<p class='lead'>{what}{listed(list(map(escaped, results['methods'])))}; {over}.</p>"
    yield "<h2>What this run shows</h2><ul>"
    yield from (f"<li>{escaped(sentence)}</li>" for sentence in findings(results))
    yield "</ul>" + RECONSTRUCTION.format(scope=SYNTHETIC if preset else OWN_DATA)
    yield "<h2>Comparison</h2>"
    yield (
        "<p>A method's row describes its model at the checkpoint that was kept: the first that"
        " forgot enough, or the last one where none did.</p>"
    )
    yield comparison_table(results)
    yield "<details open><summary>What the columns mean</summary><ul>"
    yield from (f"<li><b>{escaped(name)}</b>: {escaped(text)}.</li>" for name, text in LEGEND)
    yield "</ul></details>"
    yield "<h2>Pictures</h2>"
    yield figure(
        pictures["tradeoff"],
        "Trade-off between forgetting and keeping",
        "A path starts at the original model (square, right) and should run left along the top"
        + (", towards the gold model (star)" if gold else "")
        + ". The more it sags on the way, the more was damaged that should have been kept.",
    )
    if "matched" in pictures:
        yield figure(
            pictures["matched"],
            "Retain utility at matched forgetting",
            "Longer is better, and bars compare methods where they forgot equally much. Black:"
            " 95 % interval over "
            + ("seeds; dots are single seeds." if len(seeds) > 1 else "the test set's subjects."),
        )
    names = {f"steps-{slug(name)}": name for name in results["methods"]}
    for stem in (stem for stem in names if stem in pictures):
        yield figure(
            pictures[stem],
            f"{names[stem]}, step by step",
            "Thin: every step; thick: running median. Below 0 a pair of gradients conflicts; a"
            " min-norm near 0 means that no direction lowers all losses any more.",
        )
    yield "<h2>What was run</h2>"
    yield definitions({"seeds": ", ".join(map(str, seeds)), **flat(results["config"])})
    yield "<h3>Learning rates, chosen on the validation split</h3>"
    yield definitions(learning_rates(results))
    yield "<h3>Environment</h3>"
    yield definitions(flat(results["environment"]))
    yield "<details><summary>Every metric of every model</summary>"
    yield full_scorecards(results)
    yield "</details></body></html>"


def escaped(value: object) -> str:
    """Text that cannot be taken for markup."""
    return html.escape(str(value))


def figure(path: Path, title: str, caption: str) -> str:
    """A picture inside the page, with the sentence that says how to read it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f"<figure><img alt='{escaped(title)}' src='data:image/png;base64,{data}'>"
        f"<figcaption><b>{escaped(title)}.</b> {escaped(caption)}</figcaption></figure>"
    )


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]], num_references: int) -> str:
    """A table whose first rows are references; texts such as "needs gold" stand out."""
    head = "".join(f"<th>{escaped(heading)}</th>" for heading in headings)
    body = []
    for i, row in enumerate(rows):
        cells = "".join(
            f"<td{' class=missing' if j and is_missing(cell) else ''}>{escaped(cell)}</td>"
            for j, cell in enumerate(row)
        )
        body.append(f"<tr{' class=reference' if i < num_references else ''}>{cells}</tr>")
    return (
        f"<div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def is_missing(cell: str) -> bool:
    """Whether a cell says what its metric lacks, or that it was not reached."""
    return cell.startswith(("needs", "reached in"))


def comparison_table(results: Mapping[str, Any]) -> str:
    """The summary table as HTML."""
    headings, rows = table_rows(results)
    return html_table(headings, rows, len(reference_scorecards(results)))


def full_scorecards(results: Mapping[str, Any]) -> str:
    """Metrics down, models across."""
    cards = reference_scorecards(results)
    cards |= {summary.name: summary.scorecard for summary in summarise(results)}
    rows = [
        [metric, *(number(card[metric], 3) for card in cards.values())]
        for metric in next(iter(cards.values()))
    ]
    return html_table(["metric (mean over seeds)", *cards], rows, 0)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner` -> text."""
    out: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            out[prefix + key] = ", ".join(map(str, value))
        else:
            out[prefix + key] = str(value)
    return out


def learning_rates(results: Mapping[str, Any]) -> dict[str, str]:
    """Method -> its learning rate for each seed."""
    out = {}
    for name, method in results["methods"].items():
        rates = [f"{run['lr']:g}" for run in method["seeds"].values()]
        out[name] = rates[0] if len(set(rates)) == 1 else ", ".join(rates)
    return out


def definitions(values: Mapping[str, str]) -> str:
    """Two columns: what, and its value."""
    rows = "".join(
        f"<tr><td>{escaped(key)}</td><td style='text-align:left'>{escaped(value)}</td></tr>"
        for key, value in values.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"
