"""Which form of the kernels runs, and why."""

from __future__ import annotations

import runpy

import pytest
import torch

from moopt.kernels import dispatch
from moopt.kernels.dispatch import COMPLEX, ELSEWHERE, FORCED, GATHERED, LONG, form_of


def test_the_form_is_the_one_for_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [torch.ones(2, 3), torch.ones(4)]
    assert form_of(small, 3) is GATHERED
    assert form_of([torch.ones(dispatch.LARGEST_GATHERED // 4)], 4) is GATHERED
    assert form_of([torch.ones(dispatch.LARGEST_GATHERED // 4)], 5) is LONG
    assert form_of([torch.ones(2), torch.ones(2, device="meta")], 3) is ELSEWHERE
    assert form_of([torch.ones(2), torch.ones(2, dtype=torch.complex64)], 3) is COMPLEX
    monkeypatch.setattr(dispatch, "REFERENCE_ONLY", True)
    assert form_of(small, 3) is FORCED
    for form in (GATHERED, LONG, ELSEWHERE, COMPLEX, FORCED):
        assert form.name == ("gathered" if form is GATHERED else "reference")
        assert form.why


@pytest.mark.parametrize(("value", "forced"), [("1", True), ("0", False), ("", False)])
def test_one_variable_forces_the_reference_form(
    monkeypatch: pytest.MonkeyPatch, value: str, forced: bool
) -> None:
    monkeypatch.setenv("MOOPT_REFERENCE_KERNELS", value)
    assert runpy.run_path(dispatch.__file__)["REFERENCE_ONLY"] is forced
