"""The compiled host kernels: built in a folder of their own, gated, and equal to float64 sums."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import moopt
from moopt.kernels import dispatch
from moopt.kernels.combine import combine_
from moopt.kernels.combine_update import combine_update_, reference
from moopt.kernels.dispatch import Form
from moopt.kernels.gathered import rounding
from moopt.kernels.native import (
    combine_native_,
    combine_update_native_,
    form,
    gramian_native,
    library,
    min_norm_native,
    native_form,
)
from moopt.kernels.pieces import Position, positions
from moopt.kernels.table import is_plain
from moopt.solvers import min_norm_point
from moopt.testing import all_cases
from tests.kernels.gradient_rows import Rows, gradient_rows, gramian_oracle, widened
from tests.kernels.test_combine_update import Case, cases

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")

PLANTED = {
    "a tail that is skipped": ("if (from < size) add_wide", "if (from > size) add_wide"),
    "a float32 chain over a whole part": (
        "for (; start + BLOCK <= size; start += BLOCK) {",
        "for (; start == 0 && size > BLOCK; start = size) {",
    ),
    "squares that underflow": ("if (lost || !std::isfinite(square)) {", "if (false) {"),
    "a missing entry that shifts the rows": (
        "present.push_back(i);",
        "present.push_back(present.size());",
    ),
    "parts that start at the first element": (" + parts[3 * p + 1]);", ");"),
    "a tile that takes another's place": ("wide[across * VECTORS]", "wide[down * VECTORS]"),
    "bits of bfloat16 that are cut off": ("bits + 0x7fff + ((bits >> 16) & 1)", "bits"),
    "a weight that is left out": (
        "for (int64_t i = 1; i < count; i++)",
        "for (int64_t i = 2; i < count; i++)",
    ),
}

PLANTED |= {
    "a state that is taken for a row": ("entry(held + i)", "entry(held - 1 + i)"),
    "the numbers of the first parameter": ("scalars + position * per_position", "scalars"),
    "a tile that starts at the first element": ("entry(h) + start", "entry(h)"),
    "rows that start at the first element": ("rows[i] + start + at", "rows[i] + at"),
    "maximize that is ignored": ("Sum g = sign * d[k]", "Sum g = d[k]"),
    "decay of AdamW that is left out": ("if (decays) x -= decoupled * x;", ""),
    "decay of Adam that is left out": ("if (couples) g += coupled * x;", ""),
    "nesterov that is left out": ("nesterov ? g + momentum * b[k] : b[k]", "b[k]"),
    "dampening that is left out": ("fresh * g;\n      g =", "g;\n      g ="),
    "a largest moment that falls": ("largest[k] = second;", "largest[k] = v[k];"),
    "a second moment without its root": ("std::sqrt(second) / root", "second / root"),
    "a state that is not written": ("narrow<Kind>(wide[h]", "narrow<Kind>(wide[0]"),
}

PLANTED |= {
    "pivots that stop after the first": ("while (count < max_iter)", "while (count < 1)"),
    "NaN that is taken for a number": ("if (!finite) {", "if (false) {"),
    "a zero row that is not stationary": ("if (zeros > 0) {", "if (false) {"),
    "a sweep without its sign": ("sign * table[p * m + j] / corner", "table[p * m + j] / corner"),
}


def use(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str | None = None) -> None:
    """Look for the library in this folder; with other sources, if they are given."""
    if source is not None:
        (folder / "kernels.cpp").write_text(source)
        monkeypatch.setattr(library, "_SOURCE", folder / "kernels.cpp")
        monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-O1"))  # the last one counts
    monkeypatch.setattr(library, "_HERE", folder)
    library.library.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the kernels were built, by the command of the documentation but for the place."""
    place = tmp_path_factory.mktemp("native")
    with pytest.MonkeyPatch.context() as patch:
        use(place, patch)
        library.build()
    return place


@pytest.fixture(scope="module")
def checked_once(folder: Path) -> Form:
    """What the gate says."""
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        return native_form()


@pytest.fixture
def native(folder: Path, checked_once: Form, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use(folder, monkeypatch)
    assert checked_once.name == "native"
    monkeypatch.setattr(form, "_checked", lambda *library: checked_once)
    yield
    monkeypatch.undo()
    library.library.cache_clear()


@pytest.mark.usefixtures("native")
def test_the_gramian_agrees_with_float64() -> None:
    @settings(deadline=None, max_examples=100)
    @given(rows=gradient_rows(max_rows=9))
    def check(rows: Rows) -> None:
        found, noise = gramian_native(positions(rows, caller="gramian"), len(rows))
        expected = gramian_oracle(rows)
        norms = expected.diagonal().sqrt()
        assert torch.equal(found, found.T)
        allowed = (noise + 1e-15) * norms[:, None] * norms + 1e-300
        assert ((found - expected).abs() <= allowed).all()

    check()


@pytest.mark.usefixtures("native")
def test_the_combination_agrees_with_float64() -> None:
    @settings(deadline=None, max_examples=100)
    @given(rows=gradient_rows(max_rows=9), data=st.data())
    def check(rows: Rows, data: st.DataObject) -> None:
        weights = [data.draw(st.floats(-4.0, 4.0)) for _ in rows]
        exact, size = [], []
        for column in zip(*rows, strict=True):
            terms = [(w, widened(g)) for w, g in zip(weights, column, strict=True) if g is not None]
            exact.append(sum(w * g for w, g in terms))
            size.append(sum(abs(w * g) for w, g in terms))
        for found, expected, terms_size in zip(combine_(rows, weights), exact, size, strict=True):
            if found is None:
                continue
            # What is not plain is left to the reference, which may add up in the rows' dtype.
            allowed = 8 * torch.finfo(found.dtype).eps * terms_size + torch.finfo(found.dtype).tiny
            assert ((widened(found) - expected).abs() <= allowed).all()

    check()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8, 17, 32])
@pytest.mark.parametrize("sizes", [(0,), (1,), (63,), (1000,), (1025,), (40_000,), (7,) * 100])
def test_every_width_and_length(m: int, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(m)
    rows: Rows = [[torch.randn(n, generator=generator).to(dtype) for n in sizes] for _ in range(m)]
    wide = torch.stack([torch.cat(row).double() for row in rows])  # type: ignore[arg-type]
    checked = positions(rows, caller="gramian")
    found, noise = gramian_native(checked, m)
    norms = wide.norm(dim=1)
    allowed = (noise + rounding(wide.shape[1], torch.float64)) * norms[:, None] * norms
    assert ((found - wide @ wide.T).abs() <= allowed).all()
    weights = torch.linspace(-1.0, 1.0, m, dtype=torch.float64)
    assert combine_native_(checked, weights.tolist()) == []
    direction = torch.cat([t[0].double() for t in checked])  # type: ignore[union-attr]
    size = weights.abs() @ wide.abs()
    expected = weights @ wide
    summed = torch.float32 if dtype.itemsize == 2 else torch.float64
    allowed = expected.abs() * torch.finfo(dtype).eps + 4 * rounding(m, summed) * size
    allowed += 1e-7 * (dtype == torch.float16)
    assert ((direction - expected).abs() <= allowed).all()


@pytest.mark.usefixtures("native")
def test_the_update_agrees_with_the_reference() -> None:
    @settings(deadline=None, max_examples=60)
    @given(case=cases(dtypes=(torch.float64, torch.float32, torch.bfloat16, torch.float16)))
    def check(case: Case) -> None:
        parameters, states, rows, weights, numbers = case
        copies = [[None if g is None else g.clone() for g in c] for c in (parameters, *states)]
        checked = positions([*copies, *rows], caller="combine_update_")
        held = 1 + len(states)
        reached = [t for t, p in enumerate(checked) if any(g is not None for g in p[held:])]
        chosen = [checked[t] for t in reached]
        left = combine_update_native_(chosen, held, weights, numbers[reached])
        extreme = any(0.0 < abs(w) < 2.0**-120 for w in weights)
        assert left == [k for k, p in enumerate(chosen) if extreme or not is_plain(p)]
        combine_update_(parameters, states, rows, weights, numbers)
        for k, t in enumerate(reached):
            for found, column in zip(chosen[k][:held], (parameters, *states), strict=True):
                assert found is not None
                eps, wanted = torch.finfo(found.dtype).eps, column[t].double()
                rounded = eps * 2 + 2e-5 * (found.dtype != torch.float64) + 1e-12
                error = (found.double() - wanted).abs()
                assert k in left or (error <= rounded * (wanted.abs() + 1.0)).all()

    check()


@pytest.mark.usefixtures("native")
def test_extreme_weights_are_left_to_the_reference() -> None:
    position: list[torch.Tensor | None] = [torch.zeros(3), torch.ones(3)]
    numbers = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert combine_update_native_([position], 1, [2.0**-121], numbers) == [0]
    assert combine_update_native_([position], 1, [2.0**-120], numbers) == []


@pytest.mark.usefixtures("native")
def test_a_fused_step_on_long_rows_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parameters, to rounding, of the unfused optimizer; on several threads too."""
    calls = []

    def counted(checked: list[Position], *others: Any) -> list[int]:
        calls.append(len(checked))
        return combine_update_native_(checked, *others)

    monkeypatch.setattr(reference, "combine_update_native_", counted)
    monkeypatch.setattr(sys.modules["moopt.kernels.native.operations"], "_threads", lambda n: 2)
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Linear(600, 300)
        base = torch.optim.AdamW(net.parameters(), lr=0.01)
        optimizer = moopt.CommonDescent(base, fused=fused)
        for _ in range(3):
            out = net(torch.randn(8, 600))
            optimizer.zero_grad()
            optimizer.backward({"a": out.square().mean(), "b": out.sum()})
            optimizer.step()
        found.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert calls == [2, 2]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("m", [1, 2, 3, 5, 10, 20])
def test_a_batch_of_solves_is_as_good_as_one_by_one(m: int) -> None:
    examples = list(all_cases(ms=(m,), seeds=(0, 1), norm_ratios=(1.0, 1e4, 1e8)))
    gramians = torch.stack([example.gramian for example in examples])
    batch = min_norm_point(gramians)
    for i, example in enumerate(examples):
        one = min_norm_point(example.gramian)
        weights = batch.weights[i]
        assert (weights >= 0.0).all()
        assert abs(float(weights.sum()) - 1.0) <= 1e-12
        size = float(weights @ example.gramian.diagonal().sqrt()) ** 2
        lengths = [float(w @ example.gramian @ w) for w in (weights, one.weights)]
        assert lengths[0] <= lengths[1] + 1e-9 * size
        assert int(batch.status[i]) == int(one.status)
    shaped = min_norm_point(gramians.expand(2, 1, *gramians.shape))
    assert shaped.weights.shape == (2, 1, *gramians.shape[:2])
    assert torch.equal(shaped.weights[1, 0], batch.weights)


@pytest.mark.usefixtures("native")
def test_what_the_compiled_solver_cannot_certify_is_solved_again() -> None:
    gramians = torch.stack([example.gramian for example in all_cases(ms=(5,), norm_ratios=(1e4,))])
    gramians = gramians.repeat(3, 1, 1)
    limited = min_norm_native(gramians, tol=1e-10, max_iter=1)
    assert (limited[1] == moopt.SolverStatus.MAX_ITER).any()
    result = min_norm_point(gramians, max_iter=1)
    one_by_one = torch.stack([min_norm_point(g, max_iter=1).weights for g in gramians])
    unsure = limited[1] == moopt.SolverStatus.MAX_ITER
    assert torch.equal(result.weights[unsure], one_by_one[unsure])


@pytest.mark.usefixtures("native")
def test_two_threads_give_the_bits_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Rows = [[torch.randn(200_000)] for _ in range(3)]
    checked = positions(rows, caller="gramian")
    once, _ = gramian_native(checked, 3)
    monkeypatch.setattr(sys.modules["moopt.kernels.native.operations"], "_threads", lambda n: 2)
    twice, _ = gramian_native(checked, 3)
    assert torch.equal(once, twice)


@pytest.mark.usefixtures("native")
def test_a_step_on_long_rows_uses_them() -> None:
    """With the same record and direction, to rounding, as the form in plain PyTorch."""
    records, directions = [], []
    for forced in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "REFERENCE_ONLY", forced)
            torch.manual_seed(0)
            net = torch.nn.Linear(600, 300)
            optimizer = moopt.CommonDescent(torch.optim.SGD(net.parameters(), lr=0.1))
            out = net(torch.randn(8, 600))
            records.append(optimizer.backward({"a": out.square().mean(), "b": out.sum()}))
            directions.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert native_form().name == "native"
    torch.testing.assert_close(records[0].gramian, records[1].gramian, rtol=1e-6, atol=0)
    torch.testing.assert_close(directions[0], directions[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = PLANTED[error]
    source = library._SOURCE.read_text()
    assert right in source
    use(tmp_path, monkeypatch, source.replace(right, wrong))
    try:
        library.build()
        with pytest.warns(RuntimeWarning, match=r"does not use its compiled kernels: m = "):
            assert native_form().name == "reference"
    finally:
        monkeypatch.undo()
        library.library.cache_clear()


def test_without_a_library_the_reason_is_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path, monkeypatch)
    assert library.library()[0] is None
    assert native_form().why.endswith("not built: python -m moopt.kernels.native")
    monkeypatch.undo()
    library.library.cache_clear()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path, monkeypatch, "this is not C++")
    with pytest.raises(RuntimeError, match=r"failed with exit code 1:(.|\n)*error"):
        library.build()
    assert list(tmp_path.glob("*.so")) == []
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError, match="no-such-compiler"):
        library.build()
    monkeypatch.undo()
    library.library.cache_clear()


def test_the_command_of_the_documentation() -> None:
    """It needs no more than the package: here it only says what it would need."""
    done = subprocess.run(
        [sys.executable, "-m", "moopt.kernels.native"],
        env={"CXX": "no-such-compiler", "PYTHONPATH": str(Path(moopt.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no-such-compiler" in done.stderr
    assert "Traceback" not in done.stderr
