"""The learning rate is chosen by validation: forgetting first, then what is kept."""

from __future__ import annotations

from examples.llm_unlearning.selection import choose_learning_rate, validation_score


def curve(*rows: tuple[float, float]) -> list[dict[str, float]]:
    return [{"forget_accuracy": forget, "retain_utility": retain} for forget, retain in rows]


def test_a_run_that_forgets_beats_one_that_only_keeps() -> None:
    curves = {1e-4: curve((1, 0.9), (0.5, 0.9)), 1e-3: curve((1, 0.9), (0.04, 0.2))}
    assert choose_learning_rate(curves, 0.0) == 1e-3


def test_among_those_that_forget_the_utility_at_the_first_match_decides() -> None:
    curves = {
        1e-4: curve((1, 0.9), (0.1, 0.6), (0.0, 0.1)),
        1e-3: curve((1, 0.9), (0.1, 0.5), (0.0, 0.9)),  # later recovery does not count
    }
    assert choose_learning_rate(curves, 0.05) == 1e-4


def test_among_those_that_do_not_the_least_accuracy_decides() -> None:
    curves = {1e-4: curve((1, 0.9), (0.5, 0.9)), 1e-3: curve((1, 0.9), (0.3, 0.1), (0.6, 0.1))}
    assert choose_learning_rate(curves, 0.0) == 1e-3
    assert validation_score(curves[1e-3], 0.0) == (False, -0.3)


def test_of_equals_the_smaller_rate() -> None:
    same = curve((1, 0.9), (0.0, 0.5))
    assert choose_learning_rate({1e-3: same, 1e-4: same}, 0.0) == 1e-4
