"""Answer probabilities and negative log-likelihoods, per token and length-normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def answer_nll(logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """Mean negative log-likelihood of each answer's tokens.

    `nll_i = -(1/|A_i|) sum_t log p(a_t | question, a_<t)`.

    Args:
        logprobs: one `[|A_i|]` array per answer, natural-log probabilities of its tokens.

    Returns:
        float64 `[N]`, in nats per token.

    Raises:
        ValueError: an answer has no tokens, or a log-probability is positive or NaN.

    Example:
        >>> answer_nll([np.log([0.5, 0.5]), np.log([1.0])]).round(4).tolist()
        [0.6931, 0.0]
    """
    out = np.empty(len(logprobs))
    for i, tokens in enumerate(logprobs):
        tokens = np.asarray(tokens, dtype=np.float64)
        if tokens.ndim != 1 or tokens.size == 0:
            raise ValueError(
                f"answer {i} of `logprobs` must hold at least one token's log-probability; got"
                f" shape {list(tokens.shape)}. Drop empty answers before scoring."
            )
        if not (tokens <= 0).all():
            raise ValueError(
                f"answer {i} of `logprobs` must hold log-probabilities in [-inf, 0]; got"
                f" {tokens.max()}. Pass log-softmax values, not logits or losses."
            )
        out[i] = 0.0 - tokens.mean()
    return out


def answer_probability(logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """Length-normalised probability `exp(-nll_i)` of each answer, in [0, 1].

    Args:
        logprobs: one `[|A_i|]` array per answer; see `answer_nll`.

    Returns:
        float64 `[N]`.

    Example:
        >>> answer_probability([np.log([0.5, 0.5])]).round(4).tolist()
        [0.5]

    Source: P. Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024.
    """
    return np.exp(-answer_nll(logprobs))


def choice_probability(
    correct: Sequence[np.ndarray], wrong: Sequence[Sequence[np.ndarray]]
) -> np.ndarray:
    """Probability of the right answer among the offered ones: `p_c / (p_c + sum_j p_j)`.

    Args:
        correct: one `[|A_i|]` array per question.
        wrong: for each question, one array per wrong answer (at least one).

    Returns:
        float64 `[N]`, in [0, 1]; 1/(k+1) where all k+1 answers are equally likely.

    Numerics: computed from differences of log-probabilities, so it does not underflow.

    Example:
        >>> half, tenth = np.log([0.5]), np.log([0.1])
        >>> choice_probability([half], [[tenth, tenth, tenth]]).round(4).tolist()
        [0.625]

    Source: TOFU (see `answer_probability`), its probability on real authors and world facts.
    """
    right = -answer_nll(correct)
    out = np.empty(len(right))
    for i, (log_p, others) in enumerate(zip(right, wrong, strict=True)):
        if not others:
            raise ValueError(
                f"question {i} of `wrong` must have at least one wrong answer; got none. Use"
                " `answer_probability` where there is nothing to choose from."
            )
        logs = np.concatenate([[log_p], -answer_nll(others)])
        top = logs.max()
        # All answers impossible: the model prefers none of them.
        out[i] = 1 / len(logs) if top == -np.inf else np.exp(log_p - top) / np.exp(logs - top).sum()
    return out
