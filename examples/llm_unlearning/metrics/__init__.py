"""Unlearning metrics: pure functions on numpy arrays and strings, one family per file.

A missing reference or gold model is an error that names it, never a default value.
"""

from examples.llm_unlearning.metrics.accuracy import exact_accuracy
from examples.llm_unlearning.metrics.extraction import exact_memorisation, extraction_strength
from examples.llm_unlearning.metrics.forget_quality import (
    ForgetQuality,
    KSTest,
    forget_quality,
    ks_test,
)
from examples.llm_unlearning.metrics.hypervolume import hypervolume, pareto_front
from examples.llm_unlearning.metrics.intervals import Interval, bootstrap_interval, t_interval
from examples.llm_unlearning.metrics.matched_forgetting import (
    matched_checkpoint,
    matched_forgetting,
)
from examples.llm_unlearning.metrics.membership import (
    auc,
    distance_to_gold,
    loss_score,
    min_k_score,
    zlib_score,
)
from examples.llm_unlearning.metrics.probability import (
    answer_nll,
    answer_probability,
    choice_probability,
)
from examples.llm_unlearning.metrics.rouge import rouge_l_recall
from examples.llm_unlearning.metrics.truth_ratio import (
    forget_truth_ratio,
    truth_ratio,
    utility_truth_ratio,
)
from examples.llm_unlearning.metrics.utility import Utility, harmonic_mean, model_utility

__all__ = [
    "ForgetQuality",
    "Interval",
    "KSTest",
    "Utility",
    "answer_nll",
    "answer_probability",
    "auc",
    "bootstrap_interval",
    "choice_probability",
    "distance_to_gold",
    "exact_accuracy",
    "exact_memorisation",
    "extraction_strength",
    "forget_quality",
    "forget_truth_ratio",
    "harmonic_mean",
    "hypervolume",
    "ks_test",
    "loss_score",
    "matched_checkpoint",
    "matched_forgetting",
    "min_k_score",
    "model_utility",
    "pareto_front",
    "rouge_l_recall",
    "t_interval",
    "truth_ratio",
    "utility_truth_ratio",
    "zlib_score",
]
