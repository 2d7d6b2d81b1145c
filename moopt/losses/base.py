"""What the losses share: the module of a function, the ranges of its settings, its reduction."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from moopt.kernels.token_logprob.linear import Logits

Reduction = Literal["mean", "sum", "none"]

# The settings that have a range: whether a value is in it, how it reads, and a remedy.
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str, str]] = {
    "reduction": (lambda value: value in ("mean", "sum", "none"), "'mean', 'sum' or 'none'", ""),
    "direction": (
        lambda value: value in ("forward", "reverse"),
        "'forward', KL(reference || model), or 'reverse', KL(model || reference)",
        "",
    ),
    "beta": (
        lambda value: 0 < value < math.inf,
        "positive and finite",
        " Its limit at 0 is gradient ascent: use `GradientAscentLoss` for that.",
    ),
    "gamma": (math.isfinite, "finite", " The margin is 0 by default."),
}


def check_ranges(caller: str, **settings: Any) -> None:
    """Raise ValueError for the first setting that is out of its range.

    Args:
        caller: the public function or class whose settings they are, for the message.
        settings: by name; one without a range passes.
    """
    for name, value in settings.items():
        if name in _RANGES and not _RANGES[name][0](value):
            _, allowed, remedy = _RANGES[name]
            raise ValueError(f"`{name}` of `{caller}` must be {allowed}; got {value!r}.{remedy}")


def one_reference(
    reference_logits: Logits | None, reference_log_probs: Tensor | None, *, caller: str
) -> tuple[str, Any]:
    """Return the one reference argument that is given, after its name.

    Raises:
        ValueError: none is given, or both are.
    """
    given = {"reference_logits": reference_logits, "reference_log_probs": reference_log_probs}
    references = [(name, value) for name, value in given.items() if value is not None]
    if len(references) != 1:
        raise ValueError(
            f"`{caller}` needs exactly one of `reference_logits` and `reference_log_probs`; got"
            f" {'both' if references else 'none'}. Pass the reference model's logits for this"
            " batch, or its log-probabilities computed beforehand."
        )
    return references[0]


def reduce_supervised(values: Tensor, mask: Tensor, reduction: Reduction) -> Tensor:
    """Reduce `values` over the entries where `mask` is True, without a host read.

    Args:
        values: floating, any shape; already 0 where `mask` is False.
        mask: bool, the shape of `values`.
        reduction: "mean" over the True entries, "sum", or "none".

    Returns:
        A scalar, or `values` for "none". The mean over no entry is 0, with a zero gradient: NaN
        would poison a step whose other objectives are sound, and an error would need the count on
        the host, a synchronisation in every step to catch a rare batch.
    """
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    # Divided before the sum: values near the largest float32 then have a finite mean.
    return (values / mask.sum().clamp_min(1)).sum()


@dataclasses.dataclass(eq=False, repr=False)
class LossModule(nn.Module):
    """The base of the modules: a subclass is a dataclass whose fields are its function's settings.

    They are attributes, and may be changed.

    Class attributes:
        function: the loss of logits `[B, T, V]` and labels `[B, T]`, given the settings.
    """

    function: ClassVar[Callable[..., Tensor]]

    def __post_init__(self) -> None:
        super().__init__()  # it leaves the fields, which are set already
        check_ranges(type(self).__name__, **self._settings())

    def _settings(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def forward(self, logits: Logits, labels: Tensor) -> Tensor:
        """Return the loss of `logits` `[B, T, V]` for `labels` `[B, T]`."""
        return self.function(logits, labels, **self._settings())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._settings().items())


class ReferencedLossModule(LossModule):
    """The same for a loss relative to a reference model."""

    def forward(
        self,
        logits: Logits,
        labels: Tensor,
        *,
        reference_logits: Logits | None = None,
        reference_log_probs: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `logits` `[B, T, V]` for `labels` `[B, T]`, given one reference."""
        return self.function(
            logits,
            labels,
            reference_logits=reference_logits,
            reference_log_probs=reference_log_probs,
            **self._settings(),
        )
