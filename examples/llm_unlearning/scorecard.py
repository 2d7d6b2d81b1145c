"""One model's scorecard: what it forgot, what it kept, and what an attacker can tell."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.llm_unlearning import metrics
from examples.llm_unlearning.evaluate import Evaluation, evaluate
from examples.llm_unlearning.measures import (
    ATTACKS,
    Reference,
    Value,
    answer_quality,
    extraction,
    forget_quality,
    membership,
    membership_scores,
    needs,
    rouge,
    truth_ratios,
    utilities,
    utility_truth_ratio,
    world_quality,
)
from examples.llm_unlearning.world import Example, World


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorecard:
    """Every metric of one model; a metric without its prerequisite says what it needs, never NaN.

    Attributes:
        forget_*, forget_heldout_*, retain_*, retain_heldout_*: mean length-normalised probability,
            share of answers greedily reproduced, ROUGE-L recall, on trained and on held-out
            phrasings, in [0, 1].
        forget_truth_ratio: mean of min(R, 1/R), 1 where the model cannot tell right from wrong.
        retain_truth_ratio, world_truth_ratio: mean of max(0, 1 - R), 1 where it can.
        world_probability: of the right answer among the offered ones.
        world_nll: mean negative log-likelihood of world facts, in nats per token.
        retain_utility: harmonic mean of probability, ROUGE-L and truth ratio on the retain set.
        model_utility, model_utility_arithmetic: the means of the six components of `COMPONENTS`.
        extraction_strength, exact_memorisation: on the forget set.
        ks_*: Kolmogorov-Smirnov test of the forget set's truth ratios against the gold model's;
            ceiling is gold against another gold, floor the original model against gold.
        membership_*: AUC of telling the forget set from authors that no model saw; `*_gold` is the
            gold model's, `*_distance` the distance to it.
        num_nonfinite: answer tokens with a NaN or infinite log-probability: a diverged model.
    """

    forget_probability: Value
    forget_accuracy: Value
    forget_rouge: Value
    forget_truth_ratio: Value
    forget_heldout_probability: Value
    forget_heldout_accuracy: Value
    forget_heldout_rouge: Value
    retain_probability: Value
    retain_accuracy: Value
    retain_rouge: Value
    retain_truth_ratio: Value
    retain_heldout_probability: Value
    retain_heldout_accuracy: Value
    retain_heldout_rouge: Value
    world_probability: Value
    world_accuracy: Value
    world_rouge: Value
    world_truth_ratio: Value
    world_nll: Value
    retain_utility: Value
    model_utility: Value
    model_utility_arithmetic: Value
    extraction_strength: Value
    exact_memorisation: Value
    ks_statistic: Value
    ks_pvalue: Value
    ks_ceiling_statistic: Value
    ks_ceiling_pvalue: Value
    ks_floor_statistic: Value
    ks_floor_pvalue: Value
    membership_loss: Value
    membership_loss_gold: Value
    membership_loss_distance: Value
    membership_zlib: Value
    membership_zlib_gold: Value
    membership_zlib_distance: Value
    membership_min_k: Value
    membership_min_k_gold: Value
    membership_min_k_distance: Value
    membership_min_k_plus_plus: Value
    membership_min_k_plus_plus_gold: Value
    membership_min_k_plus_plus_distance: Value
    num_nonfinite: Value

    def as_dict(self) -> dict[str, Value]:
        """Field name to value, ready for JSON."""
        return dataclasses.asdict(self)


def evaluate_world(
    model: Any, tokenizer: Any, world: World, *, limit: int | None = None
) -> dict[str, Evaluation]:
    """Evaluate a model on the splits that the scorecard reads; absent splits are left out.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        world: the splits.
        limit: at most this many examples of each split, drawn once and for all; None takes all.
    """
    out = {}
    for split in ("forget", "forget_heldout", "retain", "retain_heldout", "world_facts", "holdout"):
        examples = sample(world[split], limit)
        if examples:
            out[split] = evaluate(
                model,
                tokenizer,
                examples,
                truth_ratio=split in ("forget", "retain", "world_facts"),
                generation=split != "holdout",
                standardised=split in ("forget", "holdout"),
            )
    return out


def sample(examples: Sequence[Example], limit: int | None, seed: int = 0) -> tuple[Example, ...]:
    """At most `limit` examples in their order, the same ones for every model.

    A random draw and not every k-th: splits repeat their attributes with a period.
    """
    if limit is None or len(examples) <= limit:
        return tuple(examples)
    chosen = sorted(random.Random(seed).sample(range(len(examples)), limit))
    return tuple(examples[i] for i in chosen)


def reference(evaluations: Mapping[str, Evaluation]) -> Reference:
    """What the scorecards of other models need of this one (original, gold, another gold)."""
    ratios = truth_ratios(evaluations["forget"])
    if "holdout" not in evaluations:
        return Reference(ratios, {})
    members, rest = (membership_scores(evaluations[split]) for split in ("forget", "holdout"))
    return Reference(ratios, {name: metrics.auc(members[name], rest[name]) for name in ATTACKS})


def scorecard(
    evaluations: Mapping[str, Evaluation],
    *,
    gold: Reference | None = None,
    gold_other: Reference | None = None,
    original: Reference | None = None,
) -> Scorecard:
    """The scorecard of one model.

    Args:
        evaluations: of `evaluate_world`; `forget` and `retain` must be there.
        gold: the model retrained without the forget set. For the gold model's own scorecard pass
            the other gold model, since a model compared with itself is always perfect.
        gold_other: the same with another seed, for the ceiling.
        original: the model before unlearning, for the floor.

    Returns:
        A `Scorecard` without NaN.

    Raises:
        ValueError: the forget or the retain set is missing.
    """
    for split in ("forget", "retain"):
        if split not in evaluations:
            raise ValueError(
                f"a scorecard needs the `{split}` set; got {sorted(evaluations)}. Evaluate it."
            )
    own = reference(evaluations)
    values: dict[str, Value] = {}
    for split in ("forget", "forget_heldout", "retain", "retain_heldout", "world"):
        evaluation = evaluations.get("world_facts" if split == "world" else split)
        values |= answer_quality(split, evaluation)
    values |= world_quality(evaluations.get("world_facts"))
    values["forget_truth_ratio"] = (
        needs("wrong answers")
        if own.truth_ratios is None
        else float(metrics.forget_truth_ratio(own.truth_ratios).mean())
    )
    values["retain_truth_ratio"] = utility_truth_ratio(evaluations["retain"])
    values |= utilities(values)
    values |= extraction(evaluations["forget"].answers)
    values |= forget_quality(own, gold, gold_other, original)
    values |= membership(own, gold)
    values["num_nonfinite"] = float(sum(e.answers.num_nonfinite for e in evaluations.values()))
    return Scorecard(**values)


def checkpoint_row(
    model: Any, tokenizer: Any, forget: Sequence[Example], retain: Sequence[Example]
) -> dict[str, float]:
    """One row of a trade-off curve: how much is forgotten, how much is kept.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        forget: examples to forget; only their accuracy and probability are measured.
        retain: examples to keep, with wrong answers (else the utility is the harmonic mean of
            probability and ROUGE-L alone).

    Returns:
        `forget_accuracy`, `forget_probability`, `retain_accuracy`, `retain_probability`,
        `retain_rouge`, `retain_truth_ratio` (where there are wrong answers), `retain_utility` and
        the ends `retain_utility_low`, `retain_utility_high` of its 95 % bootstrap interval over
        the retain set's subjects, and `num_nonfinite`. The caller adds `evaluations`.
    """
    forgotten = evaluate(model, tokenizer, forget, truth_ratio=False, generation=False)
    kept = evaluate(model, tokenizer, retain)
    columns = {
        "retain_probability": metrics.answer_probability(kept.answers.logprobs),
        "retain_rouge": rouge(kept),
    }
    ratios = truth_ratios(kept)
    if ratios is not None:
        columns["retain_truth_ratio"] = metrics.utility_truth_ratio(ratios)
    utility = metrics.bootstrap_interval(
        np.stack(list(columns.values()), axis=1),
        [example.subject for example in kept.examples],
        statistic=metrics.harmonic_mean,
    )
    row = {
        "forget_accuracy": metrics.exact_accuracy(forgotten.answers.matches).mean(),
        "forget_probability": metrics.answer_probability(forgotten.answers.logprobs).mean(),
        "retain_accuracy": metrics.exact_accuracy(kept.answers.matches).mean(),
        **{name: column.mean() for name, column in columns.items()},
        "retain_utility": utility.mean,
        "num_nonfinite": forgotten.answers.num_nonfinite + kept.answers.num_nonfinite,
    }
    if utility.low is not None:
        row |= {"retain_utility_low": utility.low, "retain_utility_high": utility.high}
    return {name: float(value) for name, value in row.items()}
