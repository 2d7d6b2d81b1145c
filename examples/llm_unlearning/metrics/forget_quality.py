"""Forget quality: is the unlearned model like one that never saw the data?"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np


@dataclasses.dataclass(frozen=True)
class KSTest:
    """The two-sample Kolmogorov-Smirnov test between two samples of truth ratios.

    Attributes:
        statistic: largest distance between the two distribution functions, in [0, 1].
        pvalue: chance of a distance as large under one common distribution, in [0, 1].

    Example:
        >>> KSTest(0.25, 0.9).statistic
        0.25
    """

    statistic: float
    pvalue: float


@dataclasses.dataclass(frozen=True)
class ForgetQuality:
    """A KS test with the two that say how to read it.

    Attributes:
        unlearned: the unlearned model against gold: higher p, smaller statistic is better.
        ceiling: gold against a gold model of another seed: what a perfect method would score.
        floor: the original model against gold: what doing nothing scores.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> gold, other = rng.lognormal(size=(2, 80))
        >>> forget_quality(gold - 0, gold, other, gold / 9).unlearned.statistic
        0.0
    """

    unlearned: KSTest
    ceiling: KSTest
    floor: KSTest


def ks_test(unlearned: np.ndarray, gold: np.ndarray | None) -> KSTest:
    """Two-sample KS test between the truth ratios of the unlearned and of the gold model.

    Args:
        unlearned: `[N]` truth ratios on the forget set.
        gold: `[M]` truth ratios of the model retrained without the forget set.

    Returns:
        The statistic *and* the p-value: p alone depends on N, and saturates.

    Raises:
        ValueError: `gold` is None or a sample is empty or not finite.
        ImportError: scipy is not installed.

    Numerics: p is exact up to 10 000 examples a side, asymptotic beyond.

    Example:
        >>> ks_test(np.arange(1.0, 5.0), np.arange(11.0, 15.0)).statistic
        1.0

    Source: P. Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024.
    """
    if gold is None:
        raise ValueError(
            "forget quality compares with the gold model (retrained without the forget set); got"
            " none. Train it, or leave forget quality out."
        )
    try:
        from scipy.stats import ks_2samp
    except ImportError as error:
        raise ImportError("forget quality needs scipy: pip install scipy") from error
    samples = [np.asarray(s, dtype=np.float64) for s in (unlearned, gold)]
    for name, sample in zip(("unlearned", "gold"), samples, strict=True):
        if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
            raise ValueError(
                f"`{name}` of `ks_test` must be a non-empty vector of finite truth ratios; got"
                f" shape {list(sample.shape)}. Pass what `truth_ratio` returned."
            )
    with warnings.catch_warnings():
        # Where rounding takes the exact p past 1, scipy says so and returns the asymptotic one.
        warnings.filterwarnings("ignore", message="ks_2samp: Exact calculation unsuccessful")
        result = ks_2samp(*samples)
    return KSTest(float(result.statistic), float(result.pvalue))


def forget_quality(
    unlearned: np.ndarray,
    gold: np.ndarray | None,
    gold_other: np.ndarray | None,
    original: np.ndarray | None,
) -> ForgetQuality:
    """The KS test of an unlearned model, with its ceiling and its floor.

    Args:
        unlearned: `[N]` truth ratios of the unlearned model on the forget set.
        gold: the same of the gold model.
        gold_other: the same of a gold model trained with another seed.
        original: the same of the model before unlearning.

    Returns:
        Three tests; a method is as good as retraining where `unlearned` reaches `ceiling`.

    Raises:
        ValueError: a reference is None; the message names it.

    Example:
        >>> ratios = np.linspace(0.5, 2, 20)
        >>> forget_quality(ratios, ratios, ratios * 1.01, ratios / 100).floor.statistic
        1.0
    """
    for name, sample in (("gold_other", gold_other), ("original", original)):
        if sample is None:
            raise ValueError(
                f"`{name}` of `forget_quality` is missing, and without it the p-value cannot be"
                " read. Evaluate that model, or call `ks_test` and report it bare."
            )
    return ForgetQuality(
        ks_test(unlearned, gold), ks_test(gold_other, gold), ks_test(original, gold)
    )
