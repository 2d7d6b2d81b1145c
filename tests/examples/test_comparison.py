"""The comparison table and the findings say what the numbers say, wins and losses alike."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from examples.llm_unlearning import comparison
from examples.llm_unlearning.comparison import summarise, summary_table, table_rows
from examples.llm_unlearning.findings import findings
from tests.examples.example_results import example_results


def rendered(results) -> str:
    stream = io.StringIO()
    Console(width=100, file=stream).print(summary_table(results))
    return stream.getvalue()


def with_matched(results, name, utilities, half_width=0.01):
    """Set one method's retain utility at matched forgetting, seed by seed."""
    for run, utility in zip(results["methods"][name]["seeds"].values(), utilities, strict=True):
        run["matched"] = utility and {
            "evaluations": 30,
            "forget_accuracy": 0.1,
            "retain_utility": utility,
            "retain_utility_low": utility - half_width,
            "retain_utility_high": utility + half_width,
        }


@pytest.fixture
def results():
    damage = {"GA": 0.8, "NPO+CE": 0.1, "MOLLM": 0.1}
    return example_results(3, damage)


def test_a_mean_over_seeds_needs_every_seed(results):
    with_matched(results, "GA", [0.3, None, 0.5])
    with_matched(results, "MOLLM", [0.7, 0.8, 0.9])
    by_name = {summary.name: summary for summary in summarise(results)}
    assert by_name["MOLLM"].matched.mean == pytest.approx(0.8)
    assert by_name["MOLLM"].matched.num == 3
    assert by_name["GA"].matched is None
    assert by_name["GA"].matched_text == "reached in 2 of 3"
    assert "GA reached matched forgetting in 2 of 3 seeds and is not ranked." in findings(results)


@pytest.mark.parametrize(
    ("ours", "word"), [(0.9, "ahead of"), (0.72, "tied with"), (0.5, "behind")]
)
def test_wins_ties_and_losses_are_named(results, ours, word):
    with_matched(results, "GA", [0.2, 0.21, 0.2])
    with_matched(results, "NPO+CE", [0.70, 0.72, 0.71])
    with_matched(results, "MOLLM", [ours, ours + 0.01, ours - 0.01])
    (sentence,) = [s for s in findings(results) if s.startswith("MOLLM at matched")]
    ahead = f"ahead of NPO+CE ({ours - 0.71:+.3f}) and GA"
    assert (ahead if word == "ahead of" else f"{word} NPO+CE ({ours - 0.71:+.3f})") in sentence
    leader = findings(results)[0]
    assert leader.startswith("MOLLM keeps" if ours > 0.71 else "NPO+CE keeps")
    assert (", intervals overlap" in leader) == (word == "tied with")
    assert "paired by seed" in leader


def test_one_seed_uses_the_checkpoints_own_interval_and_says_so():
    results = example_results(1, {"GA": 0.8, "MOLLM": 0.1})
    with_matched(results, "GA", [0.5], half_width=0.2)
    with_matched(results, "MOLLM", [0.6], half_width=0.2)
    summary = summarise(results)[1]
    assert (summary.matched.low, summary.matched.high) == pytest.approx((0.4, 0.8))
    text = findings(results)
    assert text[0].startswith("MOLLM keeps the most")
    assert ", intervals overlap" in text[0]
    assert text[-1].startswith("One seed:")


def test_side_effects_are_reported(results):
    for run in results["methods"]["GA"]["seeds"].values():
        run["scorecard"] |= {"world_nll": 4.0, "membership_min_k": 0.02, "num_nonfinite": 3.0}
    text = " ".join(findings(results))
    assert "World facts, which nobody asked to forget, got worse under GA (4.00)" in text
    assert "over-forgotten): GA (0.02)." in text
    assert "NaN or infinite log-probabilities: GA." in text
    calm = " ".join(findings(example_results(3, {"MOLLM": 0.1})))
    assert "World facts survived every method" in calm
    assert "No method's membership AUC is further" in calm


def test_without_a_gold_model_nothing_is_ranked_and_cells_say_why():
    results = example_results(2, {"GA": 0.8, "MOLLM": 0.1}, gold=False)
    text = findings(results)
    assert text[0].startswith("There is no gold model in this run")
    assert not any("keeps the most" in sentence for sentence in text)
    assert "needs" in rendered(results)
    _, rows = table_rows(results)
    assert rows[-1].count("needs gold") == 3  # both of KS, and utility at matched forgetting


def test_one_method_alone_is_not_called_the_best():
    text = findings(example_results(1, {"MOLLM": 0.1}))
    assert text[0].startswith("MOLLM has retain utility")
    assert not any("the most" in sentence or "One seed" in sentence for sentence in text)


@pytest.mark.parametrize("num_seeds", [1, 5])
@pytest.mark.parametrize("gold", [True, False])
def test_the_table_fits_a_hundred_columns_and_loses_no_method(num_seeds, gold):
    names = ["SimNPO+CE", "MOLLM (MGDA loss+)", "MOLLM (UCE, KL, CE; unit dual)"]
    results = example_results(num_seeds, dict.fromkeys(names, 0.2), gold, names[:1])
    text = rendered(results)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    squeezed = "".join(text.split())
    assert all(name.split()[0] in squeezed for name in names)
    assert "nan" not in text.lower()


def test_references_are_compared_on_the_curves_examples(results):
    headings, rows = table_rows(results)
    column = headings.index(comparison.MATCHED)
    # The scorecards of these references say 0.95, measured on other phrasings.
    assert [row[column] for row in rows[:3]] == ["does not forget", "0.850", "0.850"]
    del results["references"]["gold"]["seeds"]["1"]["row"]
    with pytest.raises(ValueError, match="'gold', seed 1, lack `row`"):
        findings(results)


def test_small_numbers_are_not_rounded_to_zero():
    assert comparison.number(0.0, 2) == "0.00"
    assert comparison.number(1e-6, 2) == "<0.01"
    assert comparison.number(0.006, 2) == "0.01"
    assert comparison.number("needs gold", 2) == "needs gold"


def test_malformed_results_are_named(results):
    with pytest.raises(ValueError, match="lacks `references`"):
        findings({key: value for key, value in results.items() if key != "references"})
    with pytest.raises(ValueError, match="at least one method"):
        findings(results | {"methods": {}})
    results["methods"]["GA"]["seeds"]["1"]["scorecard"]["ks_pvalue"] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        summary_table(results)
    del results["methods"]["GA"]["seeds"]["2"]["matched"]
    with pytest.raises(ValueError, match="'GA', seed 2, lack `matched`"):
        findings(results)
