"""How much of an answer can be read out of the model: extraction strength and memorisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from examples.llm_unlearning.metrics.accuracy import non_empty


def extraction_strength(matches: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the answer that greedy decoding completes once it is given the rest.

    `1 - k/|A|` with k the first position from which the arg-max matches to the end, and k = |A|
    where even the last token is wrong.

    Args:
        matches: one bool `[|A_i|]` array per answer.

    Returns:
        float64 `[N]` in [0, 1]; 1 is verbatim, 0 means that nothing can be completed.

    Raises:
        ValueError: an answer has no tokens.

    Example:
        >>> extraction_strength([np.array([True, False, True, True])]).tolist()
        [0.5]
        >>> extraction_strength([np.array([True, True, False])]).tolist()
        [0.0]

    Source: N. Carlini et al., "Extracting Training Data from Large Language Models", USENIX
    Security 2021, in the form of the open-unlearning benchmark, whose code bottoms out at
    1/|A|; here the floor is 0.
    """
    out = np.empty(len(matches))
    for i, tokens in enumerate(matches):
        tokens = non_empty(tokens, i)
        misses = np.flatnonzero(~tokens)
        first = misses[-1] + 1 if misses.size else 0
        out[i] = 1 - first / tokens.size
    return out


def exact_memorisation(matches: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the answer's tokens that are the arg-max given the true ones before.

    Args:
        matches: one bool `[|A_i|]` array per answer.

    Returns:
        float64 `[N]` in [0, 1]; never below `extraction_strength`.

    Raises:
        ValueError: an answer has no tokens.

    Example:
        >>> exact_memorisation([np.array([True, False, True, True])]).tolist()
        [0.75]

    Source: K. Tirumala et al., "Memorization Without Overfitting", NeurIPS 2022.
    """
    return np.array([non_empty(tokens, i).mean() for i, tokens in enumerate(matches)])
