"""Model + tokenizer + examples -> arrays: what every metric is computed from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from examples.llm_unlearning.data import IGNORE_INDEX, encode

if TYPE_CHECKING:
    from examples.llm_unlearning.world import Example

#: A small model's activations then stay in a CPU's cache: a third less time than with 16384.
TOKENS_PER_BATCH = 2**11
#: float32 logits per batch (64 MiB), so that a wide vocabulary does not fill the memory.
LOGITS_PER_BATCH = 2**24
#: Stands for the log-probability of a token where a diverged model returns NaN or infinity.
LOWEST_LOGPROB = -1e4
#: Spelt out, because whatever is left open comes from the model's own `generation_config`.
PLAIN_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """Per-token scores of N answers under teacher forcing; the end-of-sequence token counts.

    Attributes:
        logprobs: N float64 arrays `[|A_i|]`, log-probabilities of the answer's tokens, <= 0.
        matches: N bool arrays `[|A_i|]`: the token is the arg-max.
        standardised: N float64 arrays `[|A_i|]`, `(log p(a_t) - mu_t) / sigma_t` with the moments
            of log p(v), v drawn from p; None unless asked for. For min-k++.
        num_nonfinite: tokens whose log-probability was NaN or infinite; they are scored as
            `LOWEST_LOGPROB` and never match.
    """

    logprobs: list[np.ndarray]
    matches: list[np.ndarray]
    standardised: list[np.ndarray] | None
    num_nonfinite: int

    def part(self, start: int, stop: int) -> AnswerScores:
        """Answers `start` to `stop`; `num_nonfinite` is counted again."""
        logprobs = self.logprobs[start:stop]
        extra = self.standardised[start:stop] if self.standardised is not None else None
        num = sum(int((tokens == LOWEST_LOGPROB).sum()) for tokens in logprobs)
        return AnswerScores(logprobs, self.matches[start:stop], extra, num)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One model on one list of examples.

    Attributes:
        examples: the N examples.
        answers: scores of `example.answer`.
        paraphrases: scores of `example.paraphrased_answer`; None unless asked for.
        wrong: for each example, log-probabilities of each of its wrong answers; None unless asked
            for, or where an example has no wrong answers.
        generations: N greedily decoded answers; None unless asked for.
    """

    examples: tuple[Example, ...]
    answers: AnswerScores
    paraphrases: AnswerScores | None
    wrong: list[list[np.ndarray]] | None
    generations: list[str] | None


def evaluate(
    model: torch.nn.Module,
    tokenizer: Any,
    examples: Sequence[Example],
    *,
    truth_ratio: bool = True,
    generation: bool = True,
    standardised: bool = False,
) -> Evaluation:
    """Everything the metrics need about one model on some examples.

    Args:
        model: a causal language model; its mode and parameters are left as they were.
        tokenizer: the one that `encode` takes.
        examples: at least one.
        truth_ratio: also score paraphrased and wrong answers, default True.
        generation: also decode greedily, default True.
        standardised: also compute what min-k++ needs, default False.

    Returns:
        An `Evaluation` in the order of `examples`.

    Raises:
        ValueError: there are no examples.

    Numerics: one forward pass over all answers, sorted by length. Decoding runs only for the
        answers that teacher forcing shows not to be reproduced token by token.
    """
    examples = tuple(examples)
    if not examples:
        raise ValueError("`examples` of `evaluate` must hold at least one example; got none.")
    num = len(examples)
    pairs = [(example.question, example.answer) for example in examples]
    answered = list(pairs)
    with_wrong = truth_ratio and all(example.wrong_answers for example in examples)
    if with_wrong:
        pairs += [(example.question, example.paraphrased_answer) for example in examples]
        pairs += [(e.question, wrong) for e in examples for wrong in e.wrong_answers]
    scores = score_answers(model, tokenizer, pairs, standardised=standardised)
    answers = scores.part(0, num)
    paraphrases = scores.part(num, 2 * num) if with_wrong else None
    wrong = None
    if with_wrong:
        rest = iter(scores.logprobs[2 * num :])
        wrong = [[next(rest) for _ in example.wrong_answers] for example in examples]
    generations = None
    if generation:
        generations = greedy_answers(model, tokenizer, answered, known=answers.matches)
    return Evaluation(examples, answers, paraphrases, wrong, generations)


@torch.no_grad()
def score_answers(
    model: torch.nn.Module,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    standardised: bool = False,
) -> AnswerScores:
    """Log-probability and arg-max match of every answer token, by teacher forcing.

    Args:
        model: a causal language model.
        tokenizer: the one that `encode` takes.
        pairs: (question, answer) texts; at least one.
        standardised: also compute what min-k++ needs, default False.

    Returns:
        `AnswerScores` in the order of `pairs`.

    Numerics: log-softmax in float32 whatever the model's dtype, only at answer positions.
    """
    encoded = encode(tokenizer, pairs)
    labels = encoded["labels"]
    sizes = (labels != IGNORE_INDEX).sum(dim=1)
    if not bool((labels[:, 0] == IGNORE_INDEX).all()) or not bool((sizes > 0).all()):
        raise ValueError(
            "every pair of `score_answers` must have a prompt and an answer of at least one token;"
            " got one without. Remove empty questions and answers."
        )
    logprobs, matches, extra = [], [], []
    order = []
    with evaluating(model) as device:
        for rows in by_length(encoded["attention_mask"], len(tokenizer)):
            length = int(encoded["attention_mask"][rows].sum(dim=1).max())
            batch = {k: v[rows, :length].to(device) for k, v in encoded.items()}
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
            supervised = batch["labels"][:, 1:] != IGNORE_INDEX
            targets = batch["labels"][:, 1:][supervised]
            log_p = torch.log_softmax(logits[:, :-1][supervised].float(), dim=-1)
            chosen = log_p.gather(1, targets[:, None])[:, 0]
            finite = torch.isfinite(chosen)
            matches += [(log_p.argmax(dim=-1) == targets) & finite]
            logprobs += [chosen.where(finite, torch.tensor(LOWEST_LOGPROB, device=device))]
            if standardised:
                extra += [standardise(log_p, chosen).where(finite, LOWEST_LOGPROB)]
            order += [rows]
    index = torch.cat(order)
    ends = sizes[index].cumsum(0)[:-1].tolist()
    inverse = index.argsort().tolist()

    def ragged(flat: list[Tensor], dtype: type) -> list[np.ndarray]:
        arrays = np.split(torch.cat(flat).cpu().numpy().astype(dtype), ends)
        return [arrays[i] for i in inverse]

    ordered = ragged(logprobs, np.float64)
    return AnswerScores(
        ordered,
        ragged(matches, np.bool_),
        ragged(extra, np.float64) if standardised else None,
        sum(int((tokens == LOWEST_LOGPROB).sum()) for tokens in ordered),
    )


@torch.no_grad()
def greedy_answers(
    model: torch.nn.Module,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    known: Sequence[np.ndarray] | None = None,
    max_new_tokens: int | None = None,
) -> list[str]:
    """What the model answers to each question when it always takes the likeliest token.

    Args:
        model: a causal language model with `generate`.
        tokenizer: the one that `encode` takes.
        pairs: (question, reference answer) texts; at least one.
        known: `AnswerScores.matches` of the same pairs. An answer that matches everywhere is what
            greedy decoding returns, so it is not decoded again.
        max_new_tokens: default: the longest reference answer's length, so that it depends on the
            data and never on the model.

    Returns:
        One text per pair, without special tokens, stripped.
    """
    from transformers import GenerationConfig

    # Only what is decoded is encoded; a known answer is its own text.
    texts = [answer for _, answer in pairs]
    todo = [i for i in range(len(pairs)) if known is None or not np.all(known[i])]
    if not todo:
        return [text.strip() for text in texts]
    encoded = encode(tokenizer, [pairs[i] for i in todo])
    labels = encoded["labels"]
    prompt = (labels == IGNORE_INDEX) & (encoded["attention_mask"] == 1)
    longest = int((labels != IGNORE_INDEX).sum(dim=1).max())
    if known is not None:
        longest = max(map(len, known))
    end = tokenizer.eos_token_id
    padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = GenerationConfig(
        **PLAIN_GREEDY,
        max_new_tokens=longest if max_new_tokens is None else max_new_tokens,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=padding,
    )
    with evaluating(model) as device:
        for part in by_length(prompt, len(tokenizer)):
            rows = [encoded["input_ids"][i][prompt[i]] for i in part.tolist()]
            width = max(len(row) for row in rows)
            # Padding on the left: every row's next token then stands in the same column.
            input_ids = torch.full((len(rows), width), padding)
            attention_mask = torch.zeros_like(input_ids)
            for i, row in enumerate(rows):
                input_ids[i, width - len(row) :] = row
                attention_mask[i, width - len(row) :] = 1
            output = model.generate(
                input_ids.to(device),
                attention_mask=attention_mask.to(device),
                generation_config=config,
            )
            for i, new in zip(part.tolist(), output[:, width:], strict=True):
                texts[todo[i]] = tokenizer.decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def standardise(log_p: Tensor, chosen: Tensor) -> Tensor:
    """`(chosen - mu) / sigma` with the moments of log p(v) for v drawn from p.

    Args:
        log_p: float `[n, V]`, log-softmax rows.
        chosen: float `[n]`, the log-probability of each row's own token.

    Returns:
        float `[n]`; 0 where sigma is 0 (every token equally likely).
    """
    p = log_p.exp()
    # 0 * -inf: a token of probability 0 adds nothing to either moment.
    finite = log_p.where(p > 0, 0.0)
    mean = (p * finite).sum(dim=-1)
    variance = (p * (finite - mean[:, None]).square()).sum(dim=-1)
    return torch.where(variance > 0, (chosen - mean) / variance.sqrt().clamp_min(1e-30), 0.0)


def by_length(mask: Tensor, vocabulary_size: int) -> Iterator[Tensor]:
    """Row indices in batches of similar length, longest first, so that little is padding.

    Args:
        mask: `[N, T]`, non-zero on tokens.
        vocabulary_size: V; a batch holds at most `TOKENS_PER_BATCH` tokens and `LOGITS_PER_BATCH`
            logits, and at least one row.
    """
    lengths = mask.sum(dim=1)
    order = lengths.argsort(descending=True, stable=True)
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        tokens = min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // vocabulary_size)
        rows = max(1, tokens // longest)
        yield order[start : start + rows]
        start += rows


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[torch.device]:
    """The model in evaluation mode, yielding its device; its mode comes back afterwards."""
    training = model.training
    model.eval()
    try:
        yield next(model.parameters()).device
    finally:
        model.train(training)
