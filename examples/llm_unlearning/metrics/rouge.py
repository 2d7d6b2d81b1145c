"""ROUGE-L recall of generated answers, by the maintained `rouge-score` package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rouge_l_recall(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Longest common subsequence of words, as a share of the reference's words.

    Args:
        predictions: N generated answers.
        references: N true answers.

    Returns:
        float64 `[N]` in [0, 1].

    Raises:
        ImportError: `rouge-score` is not installed.
        ValueError: the two lists differ in length.

    Numerics: words are lower-cased, split at anything but letters and digits, and Porter-stemmed
    (the setting of TOFU); a reference without any word scores 0.

    Example:
        >>> rouge_l_recall(["born in Oslo"], ["She was born in Oslo"]).tolist()
        [0.6]

    Source: C.-Y. Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL Workshop 2004.
    """
    if len(predictions) != len(references):
        raise ValueError(
            "`predictions` and `references` of `rouge_l_recall` must have equal length; got"
            f" {len(predictions)} and {len(references)}. Pass one prediction per reference."
        )
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ImportError(
            "ROUGE-L needs the rouge-score package: pip install rouge-score"
        ) from error
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return np.array(
        [
            scorer.score(reference, prediction)["rougeL"].recall
            for prediction, reference in zip(predictions, references, strict=True)
        ],
        dtype=np.float64,
    )
