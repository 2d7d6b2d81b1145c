"""Confidence intervals: over seeds, and over the examples of one seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: the point estimate.
        low, high: the interval's ends; None where one value alone gives no interval.
        num: how many values (seeds, or examples) it rests on.

    Example:
        >>> str(Interval(0.5, 0.4, 0.6, 5)), str(Interval(0.5, None, None, 1))
        ('0.500 [0.400, 0.600]', '0.500')
    """

    mean: float
    low: float | None
    high: float | None
    num: int

    def overlaps(self, other: Interval) -> bool | None:
        """Whether the two intervals share a point; None where one of them has no ends.

        Example:
            >>> Interval(0.5, 0.4, 0.6, 5).overlaps(Interval(0.7, 0.55, 0.85, 5))
            True
        """
        if self.low is None or other.low is None or self.high is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def t_interval(
    values: Sequence[float],
    confidence: float = 0.95,
    *,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Mean over seeds with Student's t-interval `mean +- t s / sqrt(n)`.

    Args:
        values: one number per seed, n >= 1.
        confidence: in (0, 1), default 0.95.
        bounds: the range of what is measured, such as (0, 1); the interval is cut to it.

    Returns:
        An interval without ends where n = 1: one seed says nothing about the spread over seeds.

    Raises:
        ValueError: no values, a value that is not finite, or `confidence` outside (0, 1).
        ImportError: scipy is not installed.

    Example:
        >>> str(t_interval([0.90, 0.92, 0.94]))
        '0.920 [0.870, 0.970]'
    """
    sample = checked(values, confidence)
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, None, None, 1)
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError("confidence intervals need scipy: pip install scipy") from error
    half = float(t.ppf((1 + confidence) / 2, sample.size - 1) * sample.std(ddof=1))
    half /= sample.size**0.5
    low, high = bounds or (-np.inf, np.inf)
    return Interval(mean, max(low, mean - half), min(high, mean + half), int(sample.size))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[object] | None = None,
    *,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A mean over the examples of one seed with a percentile bootstrap interval.

    It says how well the *test set* pins the number down, not how it varies over training runs.

    Args:
        values: one number per example, `[N]`; or K measures per example, `[N, K]`.
        clusters: one label per example (its author, say); whole clusters are resampled, because
            facts about one author are not independent. None resamples single examples.
        statistic: turns `[..., K]` means into `[...]` numbers (a harmonic mean, say); needed for
            `[N, K]` values.
        confidence: in (0, 1), default 0.95.
        num_resamples: at least 100, default 1000.
        seed: of the resampling, default 0.

    Returns:
        The interval, deterministic under the seed; without ends for one cluster.

    Raises:
        ValueError: no values, a value that is not finite, labels that do not match, `[N, K]`
            values without `statistic`, or `confidence` or `num_resamples` out of range.

    Example:
        >>> interval = bootstrap_interval([0.0, 1.0] * 50)
        >>> interval.mean, 0.37 < interval.low < 0.43 < 0.57 < interval.high < 0.63
        (0.5, True)

    Source: B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979.
    """
    if num_resamples < 100:
        raise ValueError(
            f"`num_resamples` of `bootstrap_interval` must be at least 100; got {num_resamples}."
            " A thousand take milliseconds."
        )
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 2 and statistic is None:
        raise ValueError(
            f"`values` of `bootstrap_interval` have shape {list(table.shape)}, and `statistic` says"
            " how to join the columns; got none. Pass one, or a single column."
        )
    checked(table.ravel(), confidence)
    table = table.reshape(len(table), -1)
    labels = np.arange(len(table)) if clusters is None else np.asarray(clusters)
    if labels.shape != (len(table),):
        raise ValueError(
            f"`clusters` of `bootstrap_interval` must have one label per value; got"
            f" {labels.size} for {len(table)}. Pass one label per example."
        )
    joined = statistic or (lambda means: means[..., 0])
    _, index = np.unique(labels, return_inverse=True)
    counts = np.bincount(index)
    sums = np.stack([np.bincount(index, weights=column) for column in table.T], axis=1)
    mean = float(joined(table.mean(axis=0)))
    if len(counts) == 1:
        return Interval(mean, None, None, len(table))
    rng = np.random.default_rng(seed)
    # How often each cluster is drawn: a matrix product instead of gathering every resample.
    draws = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=num_resamples)
    resampled = joined((draws @ sums) / (draws @ counts)[:, None])
    tail = 50 * (1 - confidence)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(mean, float(low), float(high), len(table))


def checked(values: Sequence[float], confidence: float) -> np.ndarray:
    """`values` as a finite, non-empty float64 vector, or a ValueError.

    Example:
        >>> checked([1], 0.95).tolist()
        [1.0]
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1); got {confidence}. Try 0.95.")
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise ValueError(
            f"`values` of an interval must be a non-empty vector of finite numbers; got {values!r}."
            " Leave out runs that failed, and say how many there were."
        )
    return sample
