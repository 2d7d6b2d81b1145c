"""Every metric against an oracle that we did not write, or against enumeration by hand."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats
from rouge_score.rouge_scorer import RougeScorer

from examples.llm_unlearning import metrics

# Sums of at most a few hundred float64 terms of order one.
RTOL = 1e-12


def logs(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities))


def test_answer_probability_is_the_geometric_mean():
    answers = [logs(0.5, 0.25, 0.1), logs(0.9)]
    expected = [statistics.geometric_mean([0.5, 0.25, 0.1]), 0.9]
    np.testing.assert_allclose(metrics.answer_probability(answers), expected, rtol=RTOL)


def test_answer_probability_of_an_impossible_answer_is_zero():
    assert metrics.answer_probability([np.array([-np.inf, 0.0])]).tolist() == [0.0]


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.1]), np.array([np.nan])])
def test_answer_nll_rejects_what_is_no_log_probability(bad):
    with pytest.raises(ValueError, match="answer 0 of `logprobs`"):
        metrics.answer_nll([bad])


def test_choice_probability_by_hand():
    right, wrong = logs(0.2, 0.8), [logs(0.1), logs(0.3, 0.3)]
    p, q1, q2 = math.sqrt(0.16), 0.1, 0.3
    expected = p / (p + q1 + q2)
    assert metrics.choice_probability([right], [wrong])[0] == pytest.approx(expected, rel=RTOL)


def test_choice_probability_does_not_underflow_and_knows_no_preference():
    tiny = np.array([-2000.0])
    assert metrics.choice_probability([tiny], [[tiny, tiny - 1]])[0] == pytest.approx(
        1 / (2 + math.exp(-1)), rel=RTOL
    )
    never = np.array([-np.inf])
    assert metrics.choice_probability([never], [[never, never, never]])[0] == 0.25


def test_choice_probability_needs_a_choice():
    with pytest.raises(ValueError, match="at least one wrong answer"):
        metrics.choice_probability([logs(0.5)], [[]])


@pytest.mark.parametrize("matches", list(itertools.product([False, True], repeat=5)))
def test_accuracy_extraction_and_memorisation_by_enumeration(matches):
    array = np.array(matches)
    first = next((k for k in range(5) if all(matches[k:])), 5)
    assert metrics.exact_accuracy([array]).tolist() == [float(all(matches))]
    assert metrics.extraction_strength([array])[0] == pytest.approx(1 - first / 5, rel=RTOL)
    assert metrics.exact_memorisation([array])[0] == pytest.approx(sum(matches) / 5, rel=RTOL)


def test_extraction_strength_has_a_true_floor():
    assert metrics.extraction_strength([np.array([True, True, False])]).tolist() == [0.0]


def test_empty_answers_are_named():
    for metric in (
        metrics.exact_accuracy,
        metrics.extraction_strength,
        metrics.exact_memorisation,
    ):
        with pytest.raises(ValueError, match="answer 1 of `matches`"):
            metric([np.array([True]), np.array([])])


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    for size in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, size):
            words = iter(b)
            if all(word in words for word in chosen):
                return size
    return 0


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("Mira Oldan was born in Oslo", "Oslo was where Mira Oldan was born"),
        ("", "Oslo"),
        ("Oslo", "the town of Oslo, by the fjord"),
        ("a b c d e f", "f e d c b a"),
    ],
)
def test_rouge_l_recall_by_enumeration(prediction, reference):
    words = reference.lower().replace(",", "").split()
    expected = longest_common_subsequence(words, prediction.lower().split()) / len(words)
    assert metrics.rouge_l_recall([prediction], [reference])[0] == pytest.approx(expected, rel=RTOL)


def test_rouge_l_recall_is_the_packages_recall_with_stemming():
    prediction, reference = "She writes novels about cities", "he wrote novel after novel on a city"
    score = RougeScorer(["rougeL"], use_stemmer=True).score(reference, prediction)["rougeL"]
    assert score.recall != score.precision
    assert metrics.rouge_l_recall([prediction], [reference]).tolist() == [score.recall]


def test_rouge_l_recall_needs_pairs():
    with pytest.raises(ValueError, match="equal length; got 1 and 2"):
        metrics.rouge_l_recall(["a"], ["a", "b"])


def test_truth_ratio_takes_the_geometric_mean_of_wrong_answers():
    right, wrong = logs(0.5, 0.5), [logs(0.1), logs(0.4, 0.9)]
    expected = statistics.geometric_mean([0.1, 0.6]) / 0.5
    assert metrics.truth_ratio([right], [wrong])[0] == pytest.approx(expected, rel=RTOL)
    arithmetic = statistics.mean([0.1, 0.6]) / 0.5
    assert abs(arithmetic / expected - 1) > 0.1  # the two definitions are told apart here


def test_truth_ratio_stays_finite():
    never, sure = np.array([-np.inf]), np.array([0.0])
    ratios = metrics.truth_ratio([never, sure, never], [[sure], [never], [never]])
    assert np.isfinite(ratios).all()
    assert np.isfinite(1 / ratios).all()
    assert ratios[0] > 1e300
    assert ratios[1] < 1e-300
    assert ratios[2] == 1


def test_truth_ratio_sides_by_hand():
    ratios = np.array([0.2, 1.0, 5.0])
    np.testing.assert_allclose(metrics.forget_truth_ratio(ratios), [0.2, 1.0, 0.2], rtol=RTOL)
    np.testing.assert_allclose(metrics.utility_truth_ratio(ratios), [0.8, 0.0, 0.0], rtol=RTOL)
    with pytest.raises(ValueError, match="positive and finite"):
        metrics.utility_truth_ratio(np.array([-1.0]))


def ks_distance(a, b) -> float:
    return max(abs(np.mean(a <= x) - np.mean(b <= x)) for x in np.concatenate([a, b]))


def test_ks_test_by_enumeration_of_all_splits():
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(size=5), rng.lognormal(1.0, size=6)
    both = np.concatenate([a, b])
    observed = ks_distance(a, b)
    distances = []
    for chosen in itertools.combinations(range(11), 5):
        mask = np.isin(np.arange(11), chosen)
        distances.append(ks_distance(both[mask], both[~mask]))
    # 1e-9: distances are multiples of 1/30, and equal ones must count as equal.
    expected = np.mean(np.array(distances) >= observed - 1e-9)
    test = metrics.ks_test(a, b)
    assert test.statistic == pytest.approx(observed, rel=RTOL)
    assert test.pvalue == pytest.approx(expected, rel=1e-9)  # scipy counts paths in float64


def test_ks_test_agrees_with_scipy_on_larger_samples():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=240), rng.normal(0.3, size=200)
    expected = scipy.stats.ks_2samp(a, b)
    test = metrics.ks_test(np.exp(a), np.exp(b))  # monotone: the test must not notice
    assert (test.statistic, test.pvalue) == (expected.statistic, expected.pvalue)


def test_ks_test_of_nearly_equal_samples_does_not_warn():
    # Here scipy's exact count rounds past 1, which it reports by a warning (an error in tests).
    assert metrics.ks_test(np.zeros(7), np.array([0.0] * 6 + [1.0])).pvalue > 0.999


def test_forget_quality_names_the_missing_reference():
    ratios = np.arange(1.0, 9.0)
    with pytest.raises(ValueError, match="gold model"):
        metrics.ks_test(ratios, None)
    with pytest.raises(ValueError, match="gold model"):
        metrics.forget_quality(ratios, None, ratios, ratios)
    with pytest.raises(ValueError, match="`gold_other`"):
        metrics.forget_quality(ratios, ratios, None, ratios)
    with pytest.raises(ValueError, match="`original`"):
        metrics.forget_quality(ratios, ratios, ratios, None)
    with pytest.raises(ValueError, match="`unlearned` of `ks_test`"):
        metrics.ks_test(np.array([np.nan]), ratios)


def test_forget_quality_ceiling_and_floor():
    rng = np.random.default_rng(2)
    gold, other, unlearned = rng.lognormal(size=(3, 100))
    quality = metrics.forget_quality(unlearned, gold, other, gold / 50)
    assert quality.floor.pvalue < 1e-6 < quality.ceiling.pvalue
    assert quality.ceiling == metrics.ks_test(other, gold)
    assert quality.unlearned == metrics.ks_test(unlearned, gold)


def test_model_utility_against_the_standard_library():
    names = [
        f"{s}_{m}" for s in ("retain", "world") for m in ("probability", "rouge", "truth_ratio")
    ]
    values = dict(zip(names, [0.9, 0.8, 0.3, 0.7, 1.0, 0.5], strict=True))
    utility = metrics.model_utility(values)
    assert utility.harmonic == pytest.approx(statistics.harmonic_mean(values.values()), rel=RTOL)
    assert utility.arithmetic == pytest.approx(statistics.mean(values.values()), rel=RTOL)
    assert metrics.model_utility(values | {"world_rouge": 0.0}).harmonic == 0
    with pytest.raises(ValueError, match=r"missing \['world_rouge'\]"):
        metrics.model_utility({k: v for k, v in values.items() if k != "world_rouge"})
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        metrics.model_utility(values | {"world_rouge": 1.5})


def pair_counting_auc(members, rest) -> float:
    wins = sum(float(m > r) + 0.5 * float(m == r) for m in members for r in rest)
    return wins / (len(members) * len(rest))


def test_auc_by_pair_counting_and_by_scipy_with_many_ties():
    rng = np.random.default_rng(3)
    members, rest = rng.integers(0, 5, size=40), rng.integers(1, 6, size=30)
    expected = pair_counting_auc(members, rest)
    assert metrics.auc(members, rest) == pytest.approx(expected, rel=RTOL)
    rank_sum = scipy.stats.mannwhitneyu(members, rest).statistic / (40 * 30)
    assert metrics.auc(members, rest) == pytest.approx(rank_sum, rel=RTOL)


def test_auc_and_distance_reject_what_is_missing():
    with pytest.raises(ValueError, match="`non_members`"):
        metrics.auc(np.array([1.0]), np.array([]))
    with pytest.raises(ValueError, match="`members`"):
        metrics.auc(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="gold model"):
        metrics.distance_to_gold(0.5, None)
    assert metrics.distance_to_gold(0.2, 0.5) == pytest.approx(0.3, rel=RTOL)


def test_membership_scores_by_hand():
    answer = np.array([-1.0, -5.0, -2.0, -4.0, -3.0])
    assert metrics.loss_score([answer]).tolist() == [-3.0]
    assert metrics.min_k_score([answer]).tolist() == [-4.5]
    assert metrics.min_k_score([answer], k=0.01).tolist() == [-5.0]
    assert metrics.min_k_score([answer], k=1.0).tolist() == [-3.0]
    repetitive, plain = "a" * 60, "qmzkwvjxyplo dnrtgs hbcfeaui 0192837465 QWERTYUIOPLKJHGFDSAZ"
    scores = metrics.zlib_score([answer, answer], [repetitive, plain])
    assert scores[0] < scores[1] < 0
    with pytest.raises(ValueError, match="1 texts for 2 answers"):
        metrics.zlib_score([answer, answer], ["one"])
    with pytest.raises(ValueError, match="`k`"):
        metrics.min_k_score([answer], k=0)
    with pytest.raises(ValueError, match="text 1"):
        metrics.min_k_score([answer, np.array([])])


def test_t_interval_against_scipy():
    values = [0.91, 0.88, 0.95, 0.90, 0.93]
    low, high = scipy.stats.t.interval(0.9, 4, loc=np.mean(values), scale=scipy.stats.sem(values))
    interval = metrics.t_interval(values, confidence=0.9)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
    assert interval.num == 5
    single = metrics.t_interval([0.5])
    assert (single.low, single.high, single.overlaps(interval)) == (None, None, None)


def test_t_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(4)
    intervals = [metrics.t_interval(rng.normal(size=5)) for _ in range(1000)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    # Binomial standard deviation of 0.95 over 1000 draws is 0.007.
    assert abs(covered - 0.95) < 4 * 0.007


def test_bootstrap_against_scipy():
    values = np.random.default_rng(5).beta(2, 1, size=120)
    ours = metrics.bootstrap_interval(values, num_resamples=4000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, random_state=6
    ).confidence_interval
    # Ends of two independent resamplings of 4000 differ by a few per cent of the width.
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.08 * width
    assert abs(ours.high - theirs.high) < 0.08 * width
    assert ours.mean == pytest.approx(values.mean(), rel=RTOL)


def test_bootstrap_over_clusters_is_wider_where_clusters_agree():
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(20), 8)
    values = np.repeat(rng.random(20), 8)
    alone = metrics.bootstrap_interval(values)
    together = metrics.bootstrap_interval(values, clusters)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    # Eight identical facts per author carry the information of one: sqrt(8) wider.
    assert 0.75 * math.sqrt(8) < ratio < 1.25 * math.sqrt(8)


def test_bootstrap_joins_columns_by_the_statistic():
    values = np.random.default_rng(7).random((50, 3))
    interval = metrics.bootstrap_interval(values, statistic=metrics.harmonic_mean)
    expected = statistics.harmonic_mean(values.mean(axis=0).tolist())
    assert interval.mean == pytest.approx(expected, rel=RTOL)
    assert interval.low < interval.mean < interval.high
    with pytest.raises(ValueError, match="`statistic`"):
        metrics.bootstrap_interval(values)


def test_intervals_reject_bad_input():
    with pytest.raises(ValueError, match="finite numbers"):
        metrics.t_interval([])
    with pytest.raises(ValueError, match="finite numbers"):
        metrics.t_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="`confidence`"):
        metrics.t_interval([1.0], confidence=95)
    with pytest.raises(ValueError, match="`num_resamples`"):
        metrics.bootstrap_interval([1.0, 2.0], num_resamples=10)
    with pytest.raises(ValueError, match="one label per value"):
        metrics.bootstrap_interval([1.0, 2.0], clusters=["a"])
    one = metrics.bootstrap_interval([1.0, 2.0], clusters=["a", "a"])
    assert (one.mean, one.low) == (1.5, None)


def curve(*pairs):
    return [{"forget_accuracy": a, "retain_utility": u} for a, u in pairs]


def test_matched_forgetting_takes_the_first_checkpoint_not_the_best():
    points = curve((0.9, 0.95), (0.3, 0.7), (0.12, 0.6), (0.1, 0.8), (0.5, 0.9))
    assert metrics.matched_forgetting(points, gold_accuracy=0.1) == 0.6
    assert metrics.matched_checkpoint(points, gold_accuracy=0.1) == 2
    assert metrics.matched_forgetting(points, gold_accuracy=0.02) is None
    assert metrics.matched_forgetting(points, gold_accuracy=0.1, margin=0.25) == 0.7
    # 0.07 + 0.05 is 0.12000000000000001 and 0.1 + 0.2 is 0.30000000000000004: both must match.
    assert metrics.matched_checkpoint(points, gold_accuracy=0.07) == 2


def test_matched_forgetting_needs_a_gold_model_and_a_curve():
    with pytest.raises(ValueError, match="gold model"):
        metrics.matched_forgetting(curve((1, 1)), None)
    with pytest.raises(ValueError, match="must hold a checkpoint"):
        metrics.matched_forgetting([], 0.1)
    with pytest.raises(ValueError, match=r"checkpoint 0 of `curve`.*`retain_utility`"):
        metrics.matched_forgetting([{"forget_accuracy": 0.1}], 0.1)
    with pytest.raises(ValueError, match="`forget_accuracy`"):
        metrics.matched_forgetting(curve((math.nan, 1)), 0.1)


def inclusion_exclusion(points) -> float:
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            x, y = np.min(chosen, axis=0)
            total += (-1) ** (size + 1) * x * y
    return total


def test_hypervolume_by_inclusion_and_exclusion():
    points = np.random.default_rng(8).random((7, 2))
    expected = inclusion_exclusion(points)
    # Inclusion-exclusion cancels terms of order one.
    assert metrics.hypervolume(points) == pytest.approx(expected, rel=1e-9)
    shifted = metrics.hypervolume(points + np.array([3, -2]), reference=(3.0, -2.0))
    assert shifted == pytest.approx(expected, rel=1e-9)


def test_hypervolume_below_the_reference_is_zero():
    assert metrics.hypervolume(np.array([[0.2, 0.9]]), reference=(0.5, 0.5)) == 0
    assert metrics.hypervolume(np.empty((0, 2))) == 0
    with pytest.raises(ValueError, match=r"shape \[N, 2\]"):
        metrics.pareto_front(np.ones((3, 3)))


def test_pareto_front_by_enumeration():
    points = np.random.default_rng(9).integers(0, 6, size=(25, 2)).astype(float)
    front = {tuple(p) for p in points if not any((q >= p).all() and (q > p).any() for q in points)}
    assert {tuple(p) for p in metrics.pareto_front(points)} == front
    assert len(metrics.pareto_front(points)) == len(front)
