"""ROUGE-L recall of generated answers, by the maintained `rouge-score` package."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

#: What the package counts as part of a word. Equal texts with a word need no stemming.
WORD = re.compile("[a-z0-9]")

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


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
    scorer = stemming_scorer()
    return np.array(
        [
            1.0
            if prediction == reference and WORD.search(reference.lower())
            else scorer.score(reference, prediction)["rougeL"].recall
            for prediction, reference in zip(predictions, references, strict=True)
        ],
        dtype=np.float64,
    )


@functools.cache
def stemming_scorer() -> RougeScorer:
    """The package's scorer with its own stemming tokenizer, which remembers recent texts.

    Stemming takes nearly all of its time, and a training run asks for the same references at every
    checkpoint.
    """
    try:
        from rouge_score import rouge_scorer, tokenizers
    except ImportError as error:
        raise ImportError(
            "ROUGE-L needs the rouge-score package: pip install rouge-score"
        ) from error

    class RememberingTokenizer(tokenizers.Tokenizer):
        tokenize = staticmethod(
            functools.lru_cache(maxsize=10_000)(
                tokenizers.DefaultTokenizer(use_stemmer=True).tokenize
            )
        )

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=RememberingTokenizer())
