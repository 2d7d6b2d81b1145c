"""Model utility: what is left of the model outside the forget set, as one number."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

#: TOFU averages nine components; our world has no real authors, so six exist.
SETS = ("retain", "world")
MEASURES = ("probability", "rouge", "truth_ratio")
COMPONENTS = tuple(f"{s}_{m}" for s, m in itertools.product(SETS, MEASURES))


@dataclasses.dataclass(frozen=True)
class Utility:
    """Two means of the same components.

    Attributes:
        harmonic: the headline; one component near 0 pulls it to 0.
        arithmetic: beside it, so that a collapse of one component can be told from a general
            decline.

    Example:
        >>> Utility(0.5, 0.6).harmonic
        0.5
    """

    harmonic: float
    arithmetic: float


def model_utility(
    components: Mapping[str, float], required: tuple[str, ...] = COMPONENTS
) -> Utility:
    """Harmonic and arithmetic mean of the utility components.

    The components are (probability, ROUGE-L recall, truth ratio `max(0, 1-R)`) on the retain set
    and on world facts; the probability on world facts is `choice_probability`.

    Args:
        components: name to value in [0, 1].
        required: the names that must be there, no more and no fewer.

    Returns:
        Both means, in [0, 1], harmonic <= arithmetic; the harmonic mean is 0 where a component is.

    Raises:
        ValueError: a component is missing, unknown or outside [0, 1].

    Example:
        >>> model_utility({"a": 1.0, "b": 0.5}, required=("a", "b"))
        Utility(harmonic=0.6666666666666666, arithmetic=0.75)

    Source: TOFU (P. Maini et al., COLM 2024) with nine components; we have no real-author set.
    """
    if set(components) != set(required):
        missing, unknown = set(required) - set(components), set(components) - set(required)
        raise ValueError(
            f"`components` of `model_utility` must be exactly {list(required)}; missing"
            f" {sorted(missing)}, unknown {sorted(unknown)}. Evaluate every set or pass `required`."
        )
    values = np.array([components[name] for name in required], dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"`components` of `model_utility` must lie in [0, 1]; got {dict(components)}. Pass"
            " probabilities, recalls and truth ratios, not losses."
        )
    return Utility(float(harmonic_mean(values)), float(values.mean()))


def harmonic_mean(values: np.ndarray) -> np.ndarray:
    """Harmonic mean over the last axis, 0 where a value is 0.

    Args:
        values: `[..., K]`, non-negative.

    Returns:
        float64 `[...]`, at most the arithmetic mean.

    Example:
        >>> harmonic_mean(np.array([[1.0, 0.5], [1.0, 0.0]])).round(4).tolist()
        [0.6667, 0.0]
    """
    values = np.asarray(values, dtype=np.float64)
    lowest = values.min(axis=-1)
    safe = np.where((lowest == 0)[..., None], 1.0, values)
    # Ratios to the smallest value lie in [0, 1]; 1/value would overflow for the tiniest ones.
    return lowest * values.shape[-1] / (safe.min(axis=-1)[..., None] / safe).sum(axis=-1)
