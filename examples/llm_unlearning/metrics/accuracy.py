"""Accuracy: is every token of the answer the model's first choice?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def exact_accuracy(matches: Sequence[np.ndarray]) -> np.ndarray:
    """1 for an answer whose tokens are all the arg-max given the ones before, else 0.

    This is greedy decoding reproducing the answer exactly, read off one teacher-forced pass.

    Args:
        matches: one bool `[|A_i|]` array per answer.

    Returns:
        float64 `[N]` of zeros and ones; its mean is the accuracy.

    Raises:
        ValueError: an answer has no tokens.

    Example:
        >>> exact_accuracy([np.array([True, True]), np.array([True, False])]).tolist()
        [1.0, 0.0]
    """
    return np.array([float(np.all(non_empty(tokens, i))) for i, tokens in enumerate(matches)])


def non_empty(tokens: np.ndarray, index: int) -> np.ndarray:
    """`tokens` as a bool array, or a ValueError that names the empty answer.

    Example:
        >>> non_empty([1, 0], 0).tolist()
        [True, False]
    """
    tokens = np.asarray(tokens, dtype=bool)
    if tokens.ndim != 1 or tokens.size == 0:
        raise ValueError(
            f"answer {index} of `matches` must hold at least one token; got shape"
            f" {list(tokens.shape)}. Drop empty answers before scoring."
        )
    return tokens
