"""A whole step on the meta device: its tensors have no values, so any read of one would raise."""

from __future__ import annotations

import pytest
import torch

import moopt
from tests.optimizer.problems import OneOutput, TwoHeads
from tests.weightings.settings import SETTINGS


def losses_of(model, x) -> dict[str, torch.Tensor]:
    """Under the names that `SETTINGS` gives roles to."""
    return {f"objective {i}": loss for i, loss in enumerate(model.losses(x).values())}


def train(cls, weighting) -> moopt.StepRecord:
    """The ways in that a device can run: all at once, in micro-batches, one by one."""
    model = cls().to("meta")
    optimizer = moopt.CommonDescent(torch.optim.AdamW(model.parameters(), foreach=True), weighting)
    x = torch.empty(4, 3, device="meta")
    for accumulate in (False, True):
        optimizer.zero_grad()
        if accumulate:
            optimizer.backward(losses_of(model, x), accumulate=True)
        optimizer.backward(losses_of(model, x))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad()
    for name in losses_of(model, x):
        loss = losses_of(model, x)[name]
        with optimizer.objective(name, loss):
            loss.backward()
    optimizer.combine_()
    optimizer.step()
    return optimizer.record


@pytest.mark.parametrize("cls", [OneOutput, TwoHeads])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_reads_no_value_of_any_tensor(name, cls):
    record = train(cls, SETTINGS[name](range(len(cls().losses(torch.zeros(2, 3))))))
    assert record.weights.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta tensor"):  # reading the record does wait
        str(record)


class Peeking(moopt.Mean):
    """Violates the rule: looks at a number of the Gramian on the host."""

    def __call__(self, statistics, state=None):
        assert statistics.gramian[0, 0].item() >= 0
        return super().__call__(statistics, state)


def test_a_weighting_that_reads_the_gramian_is_caught():
    with pytest.raises(RuntimeError, match="meta"):
        train(OneOutput, Peeking())
