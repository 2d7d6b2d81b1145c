"""The parts of a scorecard: from one model's evaluations to named values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from examples.llm_unlearning import metrics
from examples.llm_unlearning.evaluate import AnswerScores, Evaluation
from examples.llm_unlearning.metrics.utility import COMPONENTS, MEASURES

#: A number, or a text such as "needs gold" that says what its computation lacks.
Value = float | str
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")


def needs(what: str) -> str:
    """The value of a metric that lacks a prerequisite.

    Example:
        >>> needs("gold")
        'needs gold'
    """
    return f"needs {what}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """What other models are compared with.

    Attributes:
        truth_ratios: `[N]` on the forget set; None where it has no wrong answers.
        membership: attack -> AUC; empty where there is no holdout set.
    """

    truth_ratios: np.ndarray | None
    membership: Mapping[str, float]


def truth_ratios(evaluation: Evaluation) -> np.ndarray | None:
    """`[N]` truth ratios; None where examples have no wrong answers.

    The right answer is the paraphrased one throughout: our wrong answers share its phrasing, so a
    phrasing that was trained cannot decide the comparison.
    """
    if evaluation.wrong is None or evaluation.paraphrases is None:
        return None
    return metrics.truth_ratio(evaluation.paraphrases.logprobs, evaluation.wrong)


def rouge(evaluation: Evaluation) -> np.ndarray:
    """`[N]` ROUGE-L recalls of the generated answers."""
    if evaluation.generations is None:
        raise ValueError("ROUGE-L needs generated answers; call `evaluate(generation=True)`.")
    return metrics.rouge_l_recall(evaluation.generations, [e.answer for e in evaluation.examples])


def answer_quality(name: str, evaluation: Evaluation | None) -> dict[str, Value]:
    """Probability, accuracy and ROUGE-L of one split."""
    if evaluation is None:
        what = needs(f"{name} set")
        return {f"{name}_{key}": what for key in ("probability", "accuracy", "rouge")}
    answers = evaluation.answers
    return {
        f"{name}_probability": float(metrics.answer_probability(answers.logprobs).mean()),
        f"{name}_accuracy": float(metrics.exact_accuracy(answers.matches).mean()),
        f"{name}_rouge": float(rouge(evaluation).mean()),
    }


def world_quality(evaluation: Evaluation | None) -> dict[str, Value]:
    """What is special about world facts: choice probability, truth ratio and NLL."""
    if evaluation is None:
        keys = ("world_probability", "world_truth_ratio", "world_nll")
        return dict.fromkeys(keys, needs("world set"))
    out: dict[str, Value] = {
        "world_nll": float(metrics.answer_nll(evaluation.answers.logprobs).mean()),
        "world_truth_ratio": utility_truth_ratio(evaluation),
        "world_probability": needs("wrong answers"),
    }
    if evaluation.wrong is not None and evaluation.paraphrases is not None:
        choice = metrics.choice_probability(evaluation.paraphrases.logprobs, evaluation.wrong)
        out["world_probability"] = float(choice.mean())
    return out


def utility_truth_ratio(evaluation: Evaluation) -> Value:
    """Mean of max(0, 1 - R)."""
    ratios = truth_ratios(evaluation)
    if ratios is None:
        return needs("wrong answers")
    return float(metrics.utility_truth_ratio(ratios).mean())


def utilities(values: Mapping[str, Value]) -> dict[str, Value]:
    """Retain and model utility from their components."""

    def components(names: Sequence[str]) -> dict[str, float] | str:
        lacking = [values[name] for name in names if isinstance(values[name], str)]
        return lacking[0] if lacking else {name: float(values[name]) for name in names}

    retain_names = tuple(f"retain_{measure}" for measure in MEASURES)
    retain, model = components(retain_names), components(COMPONENTS)
    out: dict[str, Value] = {"retain_utility": retain} if isinstance(retain, str) else {}
    if not isinstance(retain, str):
        out["retain_utility"] = metrics.model_utility(retain, retain_names).harmonic
    if isinstance(model, str):
        return out | {"model_utility": model, "model_utility_arithmetic": model}
    utility = metrics.model_utility(model)
    return out | {
        "model_utility": utility.harmonic,
        "model_utility_arithmetic": utility.arithmetic,
    }


def extraction(answers: AnswerScores) -> dict[str, Value]:
    """Extraction strength and exact memorisation."""
    return {
        "extraction_strength": float(metrics.extraction_strength(answers.matches).mean()),
        "exact_memorisation": float(metrics.exact_memorisation(answers.matches).mean()),
    }


def forget_quality(
    own: Reference,
    gold: Reference | None,
    gold_other: Reference | None,
    original: Reference | None,
) -> dict[str, Value]:
    """KS statistic and p-value against gold, with their ceiling and floor."""
    out: dict[str, Value] = {}
    for name, model, what in (
        ("ks", own, "gold"),
        ("ks_ceiling", gold_other, "gold_other"),
        ("ks_floor", original, "original"),
    ):
        lacking = None
        if gold is None or model is None:
            lacking = needs("gold" if gold is None else what)
        elif gold.truth_ratios is None or model.truth_ratios is None:
            lacking = needs("wrong answers")
        if lacking is not None:
            out |= {f"{name}_statistic": lacking, f"{name}_pvalue": lacking}
            continue
        test = metrics.ks_test(model.truth_ratios, gold.truth_ratios)
        out |= {f"{name}_statistic": test.statistic, f"{name}_pvalue": test.pvalue}
    return out


def membership_scores(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Attack -> `[N]` scores, higher for text that looks trained on."""
    answers = evaluation.answers
    if answers.standardised is None:
        raise ValueError("min-k++ needs standardised scores; call `evaluate(standardised=True)`.")
    return {
        "loss": metrics.loss_score(answers.logprobs),
        "zlib": metrics.zlib_score(answers.logprobs, [e.answer for e in evaluation.examples]),
        "min_k": metrics.min_k_score(answers.logprobs),
        "min_k_plus_plus": metrics.min_k_score(answers.standardised),
    }


def membership(own: Reference, gold: Reference | None) -> dict[str, Value]:
    """Membership AUCs beside the gold model's."""
    out: dict[str, Value] = {}
    for attack in ATTACKS:
        key = f"membership_{attack}"
        out[key] = own.membership.get(attack, needs("holdout set"))
        lacking = needs("holdout set" if not own.membership else "gold")
        out |= {f"{key}_gold": lacking, f"{key}_distance": lacking}
        if own.membership and gold is not None and gold.membership:
            value, other = own.membership[attack], gold.membership[attack]
            out |= {
                f"{key}_gold": other,
                f"{key}_distance": metrics.distance_to_gold(value, other),
            }
    return out
