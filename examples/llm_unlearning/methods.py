"""The unlearning methods: a table of losses, and of how they are combined into one step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from moopt import MGDA, DualSpaceMGDA, losses
from moopt.weightings import Weighting

Batch = Mapping[str, Tensor]


class StepData:
    """One step's forget batch and retain batch, with logits that are computed when first used.

    Args:
        model: the model that is trained.
        reference: the model before unlearning, frozen.
        forget, retain: batches with `input_ids`, `attention_mask` and `labels`.
    """

    def __init__(self, model: Any, reference: Any, forget: Batch, retain: Batch) -> None:
        self.model = model
        self.reference = reference
        self.forget = forget
        self.retain = retain

    @functools.cached_property
    def forget_logits(self) -> Tensor:
        """`[B, T, V]`, with a graph."""
        return _logits(self.model, self.forget)

    @functools.cached_property
    def retain_logits(self) -> Tensor:
        """`[B, T, V]`, with a graph; KL and cross-entropy share it."""
        return _logits(self.model, self.retain)

    @property
    def reference_forget_logits(self) -> Tensor:
        """`[B, T, V]`, without a graph."""
        with torch.no_grad():
            return _logits(self.reference, self.forget)

    @property
    def reference_retain_logits(self) -> Tensor:
        """`[B, T, V]`, without a graph."""
        with torch.no_grad():
            return _logits(self.reference, self.retain)


def _logits(model: Any, batch: Batch) -> Tensor:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def ascent(data: StepData) -> Tensor:
    """Gradient ascent on the forget batch."""
    return losses.gradient_ascent_loss(data.forget_logits, data.forget["labels"])


def retain(data: StepData) -> Tensor:
    """Cross-entropy of the retain batch."""
    return losses.token_cross_entropy_loss(data.retain_logits, data.retain["labels"])


def kl(data: StepData) -> Tensor:
    """Divergence from the reference on the retain batch."""
    return losses.reference_kl_loss(
        data.retain_logits,
        data.retain["labels"],
        reference_logits=data.reference_retain_logits,
    )


def uce(data: StepData) -> Tensor:
    """Unlearning cross-entropy of the forget batch."""
    return losses.unlearning_cross_entropy_loss(data.forget_logits, data.forget["labels"])


def npo(data: StepData) -> Tensor:
    """Negative preference optimization of the forget batch, beta 0.1 as in its paper."""
    return losses.npo_loss(
        data.forget_logits,
        data.forget["labels"],
        reference_logits=data.reference_forget_logits,
        beta=0.1,
    )


def simnpo(data: StepData) -> Tensor:
    """SimNPO of the forget batch, beta 4.5 and gamma 0 as in its paper."""
    return losses.simnpo_loss(data.forget_logits, data.forget["labels"], beta=4.5, gamma=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One unlearning method.

    Attributes:
        name: as shown in tables and pictures.
        losses: objective name -> loss of a step.
        weighting: combines the objectives' gradients; None adds the losses up.
        evaluations: gradient evaluations per step: backward passes, each over one batch. A sum of
            losses takes one per batch, a weighting one per objective.
    """

    name: str
    losses: Mapping[str, Callable[[StepData], Tensor]]
    weighting: Weighting | None = None
    evaluations: int


MOLLM_LOSSES = {"forget": uce, "kl": kl, "retain": retain}


def _mollm(label: str, weighting: Weighting) -> Method:
    return Method(name=f"MOLLM {label}", losses=MOLLM_LOSSES, weighting=weighting, evaluations=3)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(name="GA", losses={"forget": ascent}, evaluations=1),
        Method(name="GradDiff", losses={"forget": ascent, "retain": retain}, evaluations=2),
        Method(name="GA+KL", losses={"forget": ascent, "kl": kl}, evaluations=2),
        Method(name="NPO+CE", losses={"forget": npo, "retain": retain}, evaluations=2),
        Method(name="SimNPO+CE", losses={"forget": simnpo, "retain": retain}, evaluations=2),
        Method(name="UCE+KL+CE sum", losses=MOLLM_LOSSES, evaluations=2),
        _mollm("dual_basis", DualSpaceMGDA(variant="dual_basis")),
        _mollm("unit_dual", DualSpaceMGDA(variant="unit_dual")),
        _mollm("projected", DualSpaceMGDA(variant="projected")),
        _mollm("MGDA none", MGDA(normalize="none")),
        _mollm("MGDA l2", MGDA(normalize="l2")),
        _mollm("MGDA loss", MGDA(normalize="loss")),
        _mollm("MGDA loss+", MGDA(normalize="loss+")),
    )
}

DEFAULT_MOLLM = "MOLLM MGDA l2"
DEMO_METHODS = ("GA", "GradDiff", "NPO+CE", "UCE+KL+CE sum", DEFAULT_MOLLM)
