"""Cases of losses: the output layer, with the logits in memory and without."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.output_layer import GRADIENT_TOL, WIDTH, gradient_errors, leaves, loss_of
from benchmarks.registry import Case, Inputs, Setting, Way

NAMES = {"linear": "moopt", "logits": "logits in memory"}


def output_layer(setting: Setting) -> Inputs:
    tensors = leaves(*(shape[0] for shape in setting.shapes))

    def gradients(way: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss_of(way, *tensors), tensors[:2])

    def gate() -> str:
        worst = max(gradient_errors("linear", *tensors))
        return "" if worst <= GRADIENT_TOL else f"a gradient errs by {worst:.1e} of its largest"

    return Inputs(
        {
            name: Way(
                functools.partial(gradients, way),
                gate if way == "linear" else lambda: "",
                ours=way == "linear",
            )
            for way, name in NAMES.items()
        }
    )


def cases(device: torch.device) -> Iterator[Case]:
    if device.type == "cpu":
        setting = Setting(1, [(64, WIDTH), (49_152, WIDTH)], torch.float32, device)
        yield Case("output_layer, 4 x 64 tokens", "output_layer", setting, output_layer)
