"""State by objective name: whatever comes and goes, each name finds its own entries."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt.step.method_state import enrol, gather, scatter


class Recorder:
    """The state axes of a method with shared, per-objective and per-pair state."""

    state_axes = {"count": 0, "value": 1, "pair": 2}  # noqa: RUF012  a plain stand-in for data

    @staticmethod
    def initial_state(num_objectives, device=None):
        return {
            "count": torch.zeros((), dtype=torch.float64),
            "value": torch.zeros(num_objectives, dtype=torch.float64),
            "pair": torch.zeros(num_objectives, num_objectives, dtype=torch.float64),
        }


names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True)


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(names, min_size=1, max_size=6), enrolled=st.booleans())
def test_state_follows_the_names(steps, enrolled):
    bank, device = {}, torch.device("cpu")
    if enrolled:
        enrol(bank, Recorder, "abcde")
    value: dict = {}
    pair: dict = {}
    for number, present in enumerate(steps):
        state = gather(bank, Recorder, present, device)
        assert state["value"].tolist() == [value.get(n, 0.0) for n in present]
        assert state["pair"].tolist() == [[pair.get((a, b), 0.0) for b in present] for a in present]
        assert float(state["count"]) == number
        fresh = {
            "count": state["count"] + 1,
            "value": torch.rand(len(present), dtype=torch.float64),
            "pair": torch.rand(len(present), len(present), dtype=torch.float64),
        }
        value |= dict(zip(present, fresh["value"].tolist(), strict=True))
        pair |= {
            (a, b): fresh["pair"][i, j].item()
            for i, a in enumerate(present)
            for j, b in enumerate(present)
        }
        scatter(bank, Recorder, present, fresh)
    assert bank["moopt_step"] == len(steps)
