"""State by objective name: whatever comes and goes, each name finds its own entries."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moopt.step.method_state import MethodState
from moopt.weightings import Mean, StateEntry


class Recorder(Mean):
    """The state of a method with shared, per-objective and per-pair entries."""

    @property
    def state_entries(self):
        return {"count": StateEntry(0), "value": StateEntry(1), "pair": StateEntry(2)}


names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True)


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(names, min_size=1, max_size=6), allocated=st.booleans())
def test_state_follows_the_names(steps, allocated):
    mapping: dict = {}
    memory = MethodState(Recorder(), mapping)
    if allocated:
        memory.make_room("abcde")
    value: dict = {}
    pair: dict = {}
    for number, present in enumerate(steps):
        state = memory.read(present)
        assert state["value"].tolist() == [value.get(n, 0.0) for n in present]
        assert state["pair"].tolist() == [[pair.get((a, b), 0.0) for b in present] for a in present]
        assert float(state["count"]) == number
        fresh = {
            "count": state["count"] + 1,
            "value": np.random.rand(len(present)),
            "pair": np.random.rand(len(present), len(present)),
        }
        value |= dict(zip(present, fresh["value"].tolist(), strict=True))
        pair |= {
            (a, b): fresh["pair"][i, j].item()
            for i, a in enumerate(present)
            for j, b in enumerate(present)
        }
        memory.write(present, fresh)
    assert mapping["moopt_step"] == len(steps)
