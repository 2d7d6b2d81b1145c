"""Pictures without overlapping text, and a page that needs nothing but itself."""

from __future__ import annotations

import base64
import itertools
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.llm_unlearning import plots
from examples.llm_unlearning.comparison import checked_results
from examples.llm_unlearning.report import write_report
from tests.examples.example_results import DAMAGE, example_results

matplotlib.use("Agg")


def visible_texts(figure):
    """(text, box in pixels) of everything written in a figure."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    hidden = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        # Matplotlib keeps ticks beyond the ends of an axis and never draws them.
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = []
    for text in figure.findobj(matplotlib.text.Text):
        box = text.get_window_extent(renderer)
        drawn = text.get_visible() and text not in hidden
        if drawn and text.get_text().strip() and box.width > 0:
            found.append((text.get_text(), box))
    return found


def check_no_overlap(texts):
    for (first, a), (second, b) in itertools.combinations(texts, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        # Boxes include a little leading: glyphs stay apart where boxes touch by two pixels.
        assert width <= 2 or height <= 2, f"{first!r} overlaps {second!r}"


@pytest.fixture(scope="module")
def results():
    return checked_results(example_results(5, DAMAGE, never_forget=("GradDiff",)))


def drawn(make, *arguments):
    from matplotlib import pyplot

    with pyplot.rc_context(plots.STYLE):
        figure = make(*arguments)
        texts = visible_texts(figure)
        size = figure.get_size_inches() * figure.dpi
        pyplot.close(figure)
    for text, box in texts:
        assert box.x0 >= -1, f"{text!r} leaves the page"
        assert box.y0 >= -1, f"{text!r} leaves the page"
        assert box.x1 <= size[0] + 1, f"{text!r} leaves the page"
        assert box.y1 <= size[1] + 1, f"{text!r} leaves the page"
    return texts


@pytest.mark.parametrize("make", [plots.tradeoff_figure, plots.matched_figure])
def test_overviews_have_no_overlapping_text(results, make):
    texts = drawn(make, results)
    check_no_overlap(texts)
    assert set(DAMAGE) <= {text for text, _ in texts}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("gold", [True, False])
def test_the_trade_off_of_few_methods_fits_its_page(count, gold):
    damage = dict(itertools.islice(DAMAGE.items(), count))
    texts = drawn(plots.tradeoff_figure, checked_results(example_results(1, damage, gold)))
    check_no_overlap(texts)
    written = {text for text, _ in texts}
    assert ("other methods" in written) == (count > 1)
    assert ("gold model" in written) == gold


def test_steps_have_no_overlapping_text_and_name_every_line(results):
    records = results["methods"]["GA"]["seeds"]["0"]["records"]
    texts = drawn(plots.steps_figure, "MOLLM", "0", records)
    check_no_overlap(texts)
    written = [text for text, _ in texts]
    assert written.count("forget") == 2  # in weights and in norms
    assert {"forget – retain", "forget – kl", "retain – kl"} <= set(written)
    assert "MOLLM, seed 0: weights (x: inactive, weight 0)" in written


def test_the_overlap_check_catches_labels_left_where_their_lines_end(results, monkeypatch):
    monkeypatch.setattr(plots, "spread", lambda heights, spacing: [0.5] * len(heights))
    records = results["methods"]["GA"]["seeds"]["0"]["records"]
    with pytest.raises(AssertionError, match="overlaps"):
        check_no_overlap(drawn(plots.steps_figure, "MOLLM", "0", records))


def check_spread(spread, heights, spacing):
    placed = spread(heights, spacing)
    assert len(placed) == len(heights)
    assert (np.diff(placed) >= spacing - 1e-9).all()
    if spacing * len(heights) <= 1:
        assert min(placed) >= spacing / 2 - 1e-9
        assert max(placed) <= 1 - spacing / 2 + 1e-9
    free = [spacing / 2 <= h <= 1 - spacing / 2 for h in heights]
    if all(free) and (np.diff(heights) >= spacing).all():
        assert placed == pytest.approx(heights)


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=7).map(sorted), st.floats(0.01, 0.2))
@settings(deadline=None, max_examples=100)
def test_labels_keep_their_order_distance_and_place(heights, spacing):
    check_spread(plots.spread, heights, spacing)


def test_spread_property_catches_labels_that_are_not_moved():
    with pytest.raises(AssertionError):
        check_spread(lambda heights, spacing: list(heights), [0.5, 0.51], 0.1)


def test_running_median_by_hand():
    row = np.array([1.0, 9.0, 2.0, np.nan, 4.0])
    np.testing.assert_array_equal(plots.running_median(row, 3), [5.0, 2.0, 5.5, 3.0, 4.0])
    np.testing.assert_array_equal(plots.running_median(row, 1), row)


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not close."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_is_self_contained_and_escapes_names(tmp_path):
    results = example_results(1, {"MOLLM (A)": 0.1, "<b>GA</b> & co": 0.7})
    # One objective has no weights or cosines to show.
    for row in results["methods"]["<b>GA</b> & co"]["seeds"]["0"]["records"]:
        for key in [key for key in row if "retain" in key or "kl" in key]:
            del row[key]
    path = write_report(results, tmp_path / "new" / "run")
    source = path.read_text(encoding="utf-8")
    assert path.name == "report.html"
    assert not re.findall(r"https?://|<script|<link|url\(|@import", source)
    page = Page()
    page.feed(source)
    assert page.open == []
    assert {"b", "table", "figure", "h1"} <= set(page.tags)
    assert "<b>GA</b> & co" in page.text
    assert "reconstruction" in page.text
    assert "small language model trained on synthetic facts" in page.text
    assert "One seed:" in page.text
    assert "world.authors" in page.text
    pictures = sorted(p.name for p in path.parent.glob("*.png"))
    assert pictures == ["matched.png", "steps-mollm-a.png", "tradeoff.png"]
    embedded = [base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in page.images]
    assert sorted(embedded) == sorted(p.read_bytes() for p in path.parent.glob("*.png"))


def test_a_run_without_gold_still_has_a_report(tmp_path):
    results = example_results(1, {"MOLLM": 0.1}, gold=False)
    results["config"] = {"model": "my-model", "data": "my-data"}
    path = write_report(results, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "needs gold" in text
    assert "There is no gold model in this run" in text
    assert "Unlearning in your own model" in text
    assert "of your own model and data" in text
    assert not (tmp_path / "matched.png").exists()


def test_file_names_of_methods_stay_apart():
    names = ["MOLLM (MGDA loss)", "MOLLM (MGDA loss+)", "GA", "GA+KL"]
    assert len({plots.slug(name) for name in names}) == len(names)
