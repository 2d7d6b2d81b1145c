"""The benchmark of known fronts: groups, gaps, dots, and the page that shows its results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import pareto_fronts
from benchmarks.front_pictures import COINCIDE, draw, root, square, together
from moopt.weightings import Guarantee

PAGE = Path(__file__).resolve().parents[2] / "docs" / "choosing.md"


def test_the_first_picture_is_of_the_methods_that_promise_descent() -> None:
    every = pareto_fronts.methods()
    for group, names in pareto_fronts.SHOWN.items():
        for name in names:
            promises = Guarantee.NON_CONFLICTING in every[name].guarantees
            assert promises == (group == "descent"), name


def test_the_page_has_the_tables_and_the_pictures_of_the_program() -> None:
    text = PAGE.read_text("utf-8")
    names = [name for group in pareto_fronts.SHOWN.values() for name in group]
    part = text[text.index("python -m benchmarks.pareto_fronts") :]
    part = part[: part.index("<!-- end measured -->")]
    assert re.findall(r"^\| (\S.*?) \|", part, flags=re.MULTILINE) == ["---", *names] * 3
    for title in pareto_fronts.TABLES:
        assert f"{title}:" in part
    for group in pareto_fronts.SHOWN:
        assert f"_static/fronts_{group}.png" in text
        assert (PAGE.parent / "_static" / f"fronts_{group}.png").exists()


@pytest.mark.parametrize("name", [n for n, p in pareto_fronts.problems().items() if n != "DTLZ2"])
def test_no_point_of_a_front_is_better_than_another(name: str) -> None:
    front = pareto_fronts.problems()[name].front
    better = (front[:, None] < front - 1e-12).all(-1)
    assert not better.any()


def test_a_gap_that_is_never_small_is_not_reached() -> None:
    pytest.importorskip("moocore")
    problem = pareto_fronts.problems()["ZDT1"]
    far = torch.full((pareto_fronts.STEPS + 1, 2), 3.0, dtype=torch.float64)
    assert pareto_fronts.number(pareto_fronts.first_below(problem, far)) == "not reached"
    far[7] = problem.front[100]
    assert pareto_fronts.number(pareto_fronts.first_below(problem, far)) == "7"
    far[-1] = problem.front[100]
    assert pareto_fronts.measured(problem, [far])["gap"] <= 1e-12


def test_ends_that_coincide_share_a_dot() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, COINCIDE / 2], [0.5, 0.0]])
    assert together(points) == [[0, 2], [1], [3]]


def test_root_axes_have_a_margin_below_zero() -> None:
    values = [-0.04, 0.0, 0.25, 4.0]
    assert root(values).tolist() == pytest.approx([-0.2, 0.0, 0.5, 2.0])
    assert square(root(values)).tolist() == pytest.approx(values)


def test_a_picture_of_two_methods(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    front = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    runs = [
        torch.tensor([[4.0, 4.0], end], dtype=torch.float64) for end in ([0.0, 1.0], [1.0, 0.0])
    ]
    target = tmp_path / "new" / "fronts.png"
    draw(target, {"a": front, "b": front}, {m: {"a": runs, "b": runs} for m in "xy"}, ("b",))
    assert target.stat().st_size > 1000
