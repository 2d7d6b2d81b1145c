"""Log-probabilities of the label tokens, and divergences between next-token distributions."""

from moopt.kernels.token_logprob.divergence import token_kl_divergences
from moopt.kernels.token_logprob.linear import LinearLogits
from moopt.kernels.token_logprob.reference import TokenLogProbs, token_log_probs

__all__ = ["LinearLogits", "TokenLogProbs", "token_kl_divergences", "token_log_probs"]
