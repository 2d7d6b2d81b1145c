"""Membership inference: can the forget set be told from text the model never saw?

Every score is higher for text that looks more like training data.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from examples.llm_unlearning.metrics.probability import answer_nll


def loss_score(logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """Minus the mean negative log-likelihood.

    Args:
        logprobs: one `[|A_i|]` array of token log-probabilities per text.

    Returns:
        float64 `[N]`, at most 0.

    Example:
        >>> loss_score([np.array([-1.0, -3.0])]).tolist()
        [-2.0]

    Source: S. Yeom et al., "Privacy Risk in Machine Learning", CSF 2018.
    """
    return -answer_nll(logprobs)


def zlib_score(logprobs: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """Minus the negative log-likelihood over the text's zlib-compressed length in bytes.

    Args:
        logprobs: one `[|A_i|]` array of token log-probabilities per text.
        texts: the N texts whose tokens were scored.

    Returns:
        float64 `[N]`, at most 0.

    Example:
        >>> bool(zlib_score([np.array([-1.0])], ["Oslo"])[0] == -1 / len(zlib.compress(b"Oslo")))
        True

    Source: N. Carlini et al., "Extracting Training Data from Large Language Models", USENIX
    Security 2021.
    """
    sizes = np.array([len(zlib.compress(text.encode())) for text in texts], dtype=np.float64)
    nll = answer_nll(logprobs)
    if nll.shape != sizes.shape:
        raise ValueError(
            f"`texts` of `zlib_score` must match `logprobs`; got {len(sizes)} texts for"
            f" {len(nll)} answers. Pass the texts that were scored, in their order."
        )
    return -nll / sizes


def min_k_score(values: Sequence[np.ndarray], k: float = 0.4) -> np.ndarray:
    """Mean over the k-share of tokens with the lowest values: min-k, or min-k++.

    Args:
        values: one `[|A_i|]` array per text: token log-probabilities for min-k%, or those
            standardised under the model's own distribution, `(log p(a_t) - mu_t) / sigma_t` with
            mu and sigma the mean and deviation of log p(v) for v drawn from p, for min-k%++.
        k: the share of tokens, in (0, 1], default 0.4; at least one token is taken.

    Returns:
        float64 `[N]`.

    Raises:
        ValueError: `k` is outside (0, 1] or a text has no tokens.

    Example:
        >>> min_k_score([np.array([-1.0, -2.0, -3.0, -4.0, -5.0])]).tolist()
        [-4.5]

    Source: W. Shi et al., "Detecting Pretraining Data from Large Language Models", ICLR 2024
    (k = 0.2); J. Zhang et al., "Min-K%++", ICLR 2025. k = 0.4 as in the MUSE benchmark.
    """
    if not 0 < k <= 1:
        raise ValueError(f"`k` of `min_k_score` must lie in (0, 1]; got {k}. Try 0.4.")
    out = np.empty(len(values))
    for i, tokens in enumerate(values):
        tokens = np.sort(np.asarray(tokens, dtype=np.float64))
        if not tokens.size:
            raise ValueError(
                f"text {i} of `min_k_score` has no tokens. Drop empty answers before scoring."
            )
        out[i] = tokens[: max(1, int(k * tokens.size))].mean()
    return out


def auc(members: np.ndarray, non_members: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a member outscores a non-member, ties half.

    Args:
        members: `[N]` scores of texts the original model was trained on (the forget set).
        non_members: `[M]` scores of texts no model ever saw.

    Returns:
        A float in [0, 1]; 0.5 where the two cannot be told apart.

    Raises:
        ValueError: one side is empty or holds NaN.

    Numerics: exact, O((N + M) log M).

    Example:
        >>> auc(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
        0.875
    """
    members, rest = np.asarray(members, np.float64), np.sort(np.asarray(non_members, np.float64))
    for name, scores in (("members", members), ("non_members", rest)):
        if not scores.size or np.isnan(scores).any():
            raise ValueError(
                f"`{name}` of `auc` must be a non-empty vector without NaN; got {scores.size}"
                " scores. Score at least one text on each side."
            )
    below = np.searchsorted(rest, members, side="left")
    not_above = np.searchsorted(rest, members, side="right")
    return float((below + not_above).sum() / (2 * members.size * rest.size))


def distance_to_gold(value: float, gold: float | None) -> float:
    """`|AUC - gold's AUC|`: a leak shows as a high AUC, over-forgetting as a low one.

    Args:
        value: the unlearned model's AUC.
        gold: the gold model's AUC on the same texts.

    Returns:
        A float in [0, 1]; 0 where an attacker learns as much as from the gold model.

    Raises:
        ValueError: `gold` is None.

    Example:
        >>> distance_to_gold(0.75, 0.5)
        0.25
    """
    if gold is None:
        raise ValueError(
            "a membership AUC is judged against the gold model's; got none. Evaluate the gold"
            " model: the distance to 0.5 or to 0 says nothing about unlearning."
        )
    return abs(value - gold)
