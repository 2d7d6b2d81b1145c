"""The truth ratio: does the model still prefer the right answer to wrong ones?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from examples.llm_unlearning.metrics.probability import answer_nll

#: exp(700) is the largest power of e that float64 holds with room for a reciprocal.
MAX_LOG_RATIO = 700.0


def truth_ratio(right: Sequence[np.ndarray], wrong: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Geometric-mean probability of the wrong answers over that of the right one.

    `R = exp(-mean_j nll_j) / exp(-nll)` with length-normalised nll: near 0 for a model that knows
    the answer, 1 for one that cannot tell right from wrong.

    Args:
        right: one `[|A_i|]` array of token log-probabilities per question: the *paraphrased*
            right answer, which the model was not trained on verbatim.
        wrong: for each question, one such array per wrong answer (at least one).

    Returns:
        float64 `[N]`, positive and finite.

    Raises:
        ValueError: a question has no wrong answer, or an answer no tokens.

    Numerics: log R is clipped to +-700, so that R and 1/R are finite; the clip keeps the order, so
    the KS statistic does not see it unless both samples are beyond it.

    Example:
        >>> truth_ratio([np.log([0.5])], [[np.log([0.1]), np.log([0.1])]]).round(4).tolist()
        [0.2]

    Source: P. Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024, in the
    geometric form of the open-unlearning benchmark; TOFU's utility code takes the arithmetic
    mean of the wrong answers' probabilities.
    """
    nll = answer_nll(right)
    out = np.empty(len(nll))
    for i, (right_nll, answers) in enumerate(zip(nll, wrong, strict=True)):
        if not answers:
            raise ValueError(
                f"question {i} of `wrong` must have at least one wrong answer; got none. Give"
                " every example a non-empty `wrong_answers`."
            )
        wrong_nll = answer_nll(answers).mean()
        # inf - inf: right and wrong are equally impossible, so the model cannot tell them apart.
        log_ratio = 0.0 if right_nll == wrong_nll else right_nll - wrong_nll
        out[i] = np.exp(np.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    return out


def forget_truth_ratio(ratios: np.ndarray) -> np.ndarray:
    """`min(R, 1/R)` per example: 1 where right and wrong are equally likely, the forget side.

    Args:
        ratios: `[N]` from `truth_ratio`.

    Returns:
        float64 `[N]` in (0, 1]; its mean is reported.

    Example:
        >>> forget_truth_ratio(np.array([0.5, 1.0, 4.0])).tolist()
        [0.5, 1.0, 0.25]
    """
    ratios = positive(ratios)
    return np.minimum(ratios, 1 / ratios)


def utility_truth_ratio(ratios: np.ndarray) -> np.ndarray:
    """`max(0, 1 - R)` per example: near 1 where the model knows the answer, the utility side.

    Args:
        ratios: `[N]` from `truth_ratio`.

    Returns:
        float64 `[N]` in [0, 1]; its mean is reported.

    Example:
        >>> utility_truth_ratio(np.array([0.25, 1.0, 4.0])).tolist()
        [0.75, 0.0, 0.0]
    """
    return np.maximum(0.0, 1 - positive(ratios))


def positive(ratios: np.ndarray) -> np.ndarray:
    """`ratios` as float64, or a ValueError where one is not positive and finite.

    Example:
        >>> positive([1, 2]).tolist()
        [1.0, 2.0]
    """
    ratios = np.asarray(ratios, dtype=np.float64)
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        raise ValueError(
            f"`ratios` must be positive and finite; got {ratios.min()} to {ratios.max()}. Pass what"
            " `truth_ratio` returned."
        )
    return ratios
