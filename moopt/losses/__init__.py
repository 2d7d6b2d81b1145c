"""Forget and retain losses of causal language models: a module and a function each."""

from moopt.kernels.token_logprob import LinearLogits, TokenLogProbs, token_log_probs
from moopt.losses.cross_entropy import TokenCrossEntropyLoss, token_cross_entropy_loss
from moopt.losses.gradient_ascent import GradientAscentLoss, gradient_ascent_loss
from moopt.losses.npo import NPOLoss, npo_loss
from moopt.losses.reference_kl import ReferenceKLLoss, reference_kl_loss
from moopt.losses.simnpo import SimNPOLoss, simnpo_loss
from moopt.losses.unlearning_cross_entropy import (
    UnlearningCrossEntropyLoss,
    unlearning_cross_entropy_loss,
)

__all__ = [
    "GradientAscentLoss",
    "LinearLogits",
    "NPOLoss",
    "ReferenceKLLoss",
    "SimNPOLoss",
    "TokenCrossEntropyLoss",
    "TokenLogProbs",
    "UnlearningCrossEntropyLoss",
    "gradient_ascent_loss",
    "npo_loss",
    "reference_kl_loss",
    "simnpo_loss",
    "token_cross_entropy_loss",
    "token_log_probs",
    "unlearning_cross_entropy_loss",
]
