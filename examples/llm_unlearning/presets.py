"""What the demo and the full run consist of."""

from __future__ import annotations

import dataclasses

from examples.llm_unlearning.grid import GridConfig
from examples.llm_unlearning.methods import DEMO_METHODS, METHODS
from examples.llm_unlearning.training import TrainingConfig
from examples.llm_unlearning.unlearning import CHECKPOINTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is run.

    Attributes:
        seeds: each has its own world, original model and gold models.
        methods: names in `METHODS`.
        learning_rates: one grid for every method.
        checkpoints: gradient evaluations at which a run is evaluated; the last is the budget.
        batch_size: rows of the forget batch and of the retain batch.
        eval_limit, validation_limit, scorecard_limit: see `GridConfig`.
        training: of every model; role, seed and world's seed are set per model.
    """

    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    checkpoints: tuple[int, ...] = CHECKPOINTS
    batch_size: int = 20
    eval_limit: int = 64
    validation_limit: int = 40
    scorecard_limit: int | None = 240
    training: TrainingConfig = dataclasses.field(
        default_factory=lambda: TrainingConfig(role="original")
    )

    def training_config(self, seed: int, role: str) -> TrainingConfig:
        """One model's configuration; the two gold models differ in their seed alone."""
        return dataclasses.replace(
            self.training,
            role=role.removesuffix("_other"),
            seed=1000 + seed if role == "gold_other" else seed,
            world=dataclasses.replace(self.training.world, seed=seed),
        )

    def grid(self, seed: int, method: str) -> GridConfig:
        """One method's share."""
        return GridConfig(
            method=method,
            learning_rates=self.learning_rates,
            checkpoints=self.checkpoints,
            batch_size=self.batch_size,
            seed=seed,
            eval_limit=self.eval_limit,
            validation_limit=self.validation_limit,
            scorecard_limit=self.scorecard_limit,
        )


PRESETS = {
    "demo": Experiment(
        seeds=(0,), methods=DEMO_METHODS, eval_limit=48, validation_limit=40, scorecard_limit=120
    ),
    "full": Experiment(seeds=(0, 1, 2, 3, 4), methods=tuple(METHODS)),
}
