"""The gates that admit a fused form to a device: green as shipped, red for every planted error."""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from moopt.kernels import dispatch, fused
from tests.kernels.fused.device import DEVICE

OPERATIONS = (
    *("gramian", "combine", "combine_update", "min_norm", "dual_cone"),
    "gramian_min_norm",
    "token_logprob",
)

PLANTED = {
    ("gramian", "a tail that is skipped"): ("if full < size:", "if full > size:"),
    ("gramian", "a tail without its mask"): (
        "mask=inside & present[i]",
        "mask=(full + lanes < BLOCK) & present[i]",
    ),
    ("gramian", "a missing entry that counts as ones"): (
        "mask=present[i], other=0.0",
        "mask=present[i], other=1.0",
    ),
    ("gramian", "parts that start at the first element"): (
        "address.to(tl.pointer_type(TYPE)) + start,",
        "address.to(tl.pointer_type(TYPE)),",
    ),
    ("gramian", "a pair that takes another's place"): (
        "pair = sums[i * M - i * (i - 1) // 2 + (j - i)]",
        "pair = sums[(i * M - i * (i - 1) // 2 + (j - i)) // 2]",
    ),
    ("gramian", "float32 sums of the tiles outside its range"): (
        "_size > 0.0,",
        "_size < 0.0,",
    ),
    ("gramian", "programs that are added up without the last one"): (
        "mask=lanes < programs",
        "mask=lanes < programs - 1",
    ),
    ("combine", "a tail that is skipped"): ("if full < size:", "if full > size:"),
    ("combine", "a stride of zero in the address table"): (
        "addresses + i * num_positions + position",
        "addresses + i * 0 + position",
    ),
    ("combine", "weights in the order of the parts"): (
        "tl.load(weights + i)",
        "tl.load(weights + (M - 1 - i))",
    ),
    ("combine", "a sum that starts again with each row"): ("total += tl.where", "total = tl.where"),
    ("combine_update", "a tail that is skipped"): ("if full < size:", "if full > size:"),
    ("combine_update", "a tail without its last element"): (
        "rest = full + lanes < size",
        "rest = full + lanes < size - 1",
    ),
    ("combine_update", "a state that is taken for a row"): ("(HELD + i)", "(HELD - 1 + i)"),
    ("combine_update", "weights in the order of the parts"): (
        "tl.load(weights + i)",
        "tl.load(weights + (M - 1 - i))",
    ),
    ("combine_update", "the numbers of another parameter"): (
        "scalars + position *",
        "scalars + 0 *",
    ),
    ("combine_update", "maximize that is ignored"): ("d = sign * d", ""),
    ("combine_update", "a learning rate that is left out"): ("length * m / size", "m / size"),
    ("combine_update", "a second moment without its root"): ("tl.sqrt(v) / root", "v / root"),
    ("combine_update", "decay of AdamW in the moments"): (
        "p = tl.where(decoupled != 0.0, p - decoupled * p, p)",
        "d = d + decoupled * p",
    ),
    ("combine_update", "decay of Adam that is left out"): (
        "d = tl.where(coupled != 0.0, d + coupled * p, d)",
        "",
    ),
    ("combine_update", "a largest moment that falls"): ("tl.maximum(w, v,", "tl.maximum(v, v,"),
    ("combine_update", "nesterov that is left out"): (
        "tl.where(nesterov, d + momentum * b, b)",
        "b",
    ),
    ("combine_update", "a moment that is not kept"): (
        "tl.store(m_at, rounded(m, TYPE), mask=inside)",
        "",
    ),
    ("combine_update", "dampening that is left out"): ("fresh * d", "d"),
    ("min_norm", "rows that are not active take part"): (
        "tl.where(total(active) > 0, active, everyone)",
        "everyone",
    ),
    ("min_norm", "a zero row without all the weight"): (
        "weights = tl.where(zeros > 0.0, zero_rows / tl.maximum(zeros, 1.0), weights)",
        "",
    ),
    ("min_norm", "pivots that stop after the first"): ("(trips < max_iter)", "(trips < 1)"),
    ("min_norm", "NaN that is taken for a number"): (
        "finite = total(tl.where(bad, 1, 0)) == 0",
        "finite = total(tl.where(bad, 1, 0)) >= 0",
    ),
    ("min_norm", "a certificate of other rows"): ("r * level - y", "level - y"),
    ("min_norm", "a pivot that leaves the table as it was"): (
        "table = tl.where(move, swept, table)",
        "table = table",
    ),
    ("token_logprob", "columns that are not there count as zeros"): (
        'logits = tl.where(is_column[None, :], logits, float("-inf"))',
        "",
    ),
    ("token_logprob", "a mask that is a column short"): (
        "columns < vocabulary",
        "columns < vocabulary - 1",
    ),
    ("token_logprob", "a last block of columns that is skipped"): (
        "tl.cdiv(vocabulary, COLUMNS) - part",
        "vocabulary // COLUMNS - part",
    ),
    ("token_logprob", "a tail of the products that is skipped"): (
        "range(0, width, DEPTH)",
        "range(0, width // DEPTH * DEPTH, DEPTH)",
    ),
    ("token_logprob", "a tail of the products without its mask"): (
        "depths < width - start",
        "depths < DEPTH",
    ),
    ("token_logprob", "sums that stay on the old maximum"): (
        "total * tl.exp(largest - shift)",
        "total",
    ),
    ("token_logprob", "parts that are added up unscaled"): (
        "(total * (largest - shift).exp_())",
        "total",
    ),
    ("token_logprob", "a bias that is left out"): ("HAS_BIAS=bias is not None", "HAS_BIAS=False"),
    ("token_logprob", "a label of another row"): ("targets + rows", "targets + rows // 2"),
    ("token_logprob", "a row that is not written"): (
        "tl.store(totals + place, total, mask=is_row)",
        "tl.store(totals + place, total, mask=rows < count - 1)",
    ),
    ("token_logprob", "a logit of -inf that makes NaN"): (
        'tl.where(risen == float("-inf"), 0.0, risen)',
        "risen",
    ),
    ("dual_cone", "a row that is left out for good"): (
        "tl.where(driving > 0, 0, tl.maximum(left_out, here))",
        "tl.maximum(left_out, cols >= 0)",
    ),
    ("dual_cone", "projections that are added up unweighted"): ("share * s", "s"),
    ("dual_cone", "a start of several rows"): (
        "tl.where(cols == p, 1.0",
        "tl.where(cols >= p, 1.0",
    ),
    ("dual_cone", "rows that are not active take part"): ("on = active > 0", "on = active >= 0"),
    ("dual_cone", "the first projection only"): ("for p in range(M):", "for p in range(1):"),
    ("dual_cone", "NaN that is taken for a number"): (
        "finite = spoiled == 0",
        "finite = spoiled >= 0",
    ),
    ("gramian_min_norm", "a preference that is not looked at"): ("if PREFERRED:", "if M == 0:"),
    ("gramian_min_norm", "a program that solves before the others have ended"): (
        "if ended == programs - 1:",
        "if ended == 0:",
    ),
    ("gramian_min_norm", "a count that is not set back"): ("tl.store(counter, 0)", ""),
    ("gramian_min_norm", "a missing fallback"): (
        "tl.where(sound, weights, tl.where(sound2, others, 0.0))",
        "weights",
    ),
    ("gramian_min_norm", "fallbacks that are not counted"): ("tl.where(falls, 1.0, 0.0)", "0.0"),
    ("gramian_min_norm", "rows at the noise floor that take part"): (
        "tl.where(low, 0, 1)",
        "tl.where(low, 1, 1)",
    ),
    ("gramian_min_norm", "a lower half that is left out"): (
        " | ((rows == j) & (cols == i))",
        "",
    ),
    ("gramian_min_norm", "a factor that is taken out once"): (
        "gramian / factor / factor",
        "gramian / factor",
    ),
    ("gramian_min_norm", "an unknown loss that counts"): (
        "given & (value - value",
        "(value - value",
    ),
    ("gramian_min_norm", "a certificate without slack for nothing"): (
        "length * RESOLVED > eps * size",
        "length >= 0.0",
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_form_as_shipped_passes(operation: str) -> None:
    # Of a step, which is slow in the interpreter, two dtypes.
    dtypes = {torch.float32, torch.bfloat16} if operation == "gramian_min_norm" else set()
    module = importlib.import_module(f"moopt.kernels.{operation}.triton")
    assert module.probe(DEVICE, None, dtypes) == ""


OPTIONS = (
    {"cross": True},
    {"metric": frozenset({torch.float32, torch.bfloat16})},
    {"cross": True, "metric": frozenset({torch.float32})},
)

PLANTED_IN_OPTIONS = {
    ("an address table of the others without its stride", 0): (
        "right + across * num_positions + position",
        "right + across * 0 + position",
    ),
    ("a tail of the tiles that is skipped", 0): (
        "inside = offset + lanes < size",
        "inside = (offset + BLOCK <= size) & (lanes >= 0)",
    ),
    ("parts of the others that start at the first element", 0): (
        "columns = b.to(tl.pointer_type(TYPE)) + start",
        "columns = b.to(tl.pointer_type(TYPE))",
    ),
    ("tiles below the diagonal that are left out", 0): ("if (not SAME) or", "if"),
    ("the metric of another position", 1): (
        "tl.load(metric + position)",
        "tl.load(metric + num_positions - 1 - position)",
    ),
    ("a metric that starts again with each part", 1): (
        "scale += start * tl.load(metric + num_positions + position)",
        "scale += 0 * start",
    ),
    ("a metric of the first element of each block", 1): (
        "at = scale + offset + lanes",
        "at = scale + lanes",
    ),
    ("a metric that is missing in the tail", 1): (
        "value = value.to(tl.float64)\n                if METRIC:",
        "value = value.to(tl.float64)\n                if not METRIC:",
    ),
    ("a metric without its root", 1): (
        "root = tl.sqrt(tl.load(at).to(tl.float64))",
        "root = tl.load(at).to(tl.float64)",
    ),
    ("a metric on one side alone", 2): (
        "y = y.to(tl.float64) * root[:, None]",
        "y = y.to(tl.float64)",
    ),
    ("a metric of the wrong block of the tiles", 2): (
        "tl.load(scale + offset + lanes, mask=inside",
        "tl.load(scale + lanes, mask=inside",
    ),
    ("products outside the range of float32", 2): (
        "x = x.to(tl.float64) * root[None, :]",
        "x = x.to(tl.float32) * root.to(tl.float32)[None, :]",
    ),
}


@pytest.mark.parametrize("options", OPTIONS, ids=["cross", "metric", "both"])
def test_the_options_of_the_gramian_pass(options: dict[str, Any]) -> None:
    module = importlib.import_module("moopt.kernels.gramian.triton")
    assert module.probe(DEVICE, None, {torch.float32}, **options) == ""
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert module.probe(DEVICE, 3, {dtype}, **options) == ""


@pytest.mark.parametrize(("error", "options"), PLANTED_IN_OPTIONS)
def test_an_error_planted_in_the_options_is_found(error: str, options: int) -> None:
    module = planted("gramian", *PLANTED_IN_OPTIONS[error, options])
    width = 33 if "tiles below" in error else 3
    assert gate(module, width, {torch.float32}, **OPTIONS[options]) != ""


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("width", [2, 5, 12])
def test_the_gate_of_one_width_and_dtype_passes(operation: str, width: int) -> None:
    module = importlib.import_module(f"moopt.kernels.{operation}.triton")
    width = min(width, 7) if operation == "gramian_min_norm" else width
    assert module.probe(DEVICE, width, {torch.float32, torch.int64}) == ""


def test_a_gate_of_one_width_finds_what_is_wrong_there() -> None:
    module = planted("gramian", *PLANTED["gramian", "a tail that is skipped"])
    assert "m = 2, torch.bfloat16" in module.probe(DEVICE, 2, {torch.bfloat16})


@pytest.mark.parametrize(("operation", "error"), PLANTED)
def test_a_planted_error_is_found(operation: str, error: str) -> None:
    assert gate(planted(operation, *PLANTED[operation, error])) != ""


def gate(module: types.ModuleType, *asked: Any, **options: Any) -> str:
    """What the gate says, or the exception that it ends in, as `fused_form` takes it."""
    try:
        # A step is slow in the interpreter, and its errors show at any width.
        if module.__name__.endswith("gramian_min_norm"):
            asked = 3, {torch.float32}
        return str(module.probe(DEVICE, *asked, **options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def planted(operation: str, right: str, wrong: str) -> types.ModuleType:
    """The module of a fused form, with one piece of its source replaced wherever it stands."""
    spec = importlib.util.find_spec(f"moopt.kernels.{operation}.triton")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    assert right in source
    source = source.replace(right, wrong)
    name = f"planted_{operation}"
    module = types.ModuleType(name)
    file_name = f"<planted {operation}: {wrong}>"
    # Triton reads the source of a kernel again.
    linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
    module.__file__ = file_name
    sys.modules[name] = module
    exec(compile(source, file_name, "exec"), module.__dict__)
    return module


@pytest.fixture
def undecided() -> Iterator[None]:
    fused._on_cuda.cache_clear()
    yield
    fused._on_cuda.cache_clear()


@pytest.mark.usefixtures("undecided")
def test_a_form_that_fails_its_gate_is_named_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    module = importlib.import_module("moopt.kernels.gramian.triton")
    monkeypatch.setattr(module, "probe", lambda *asked, **options: "m = 3: it is wrong")
    with pytest.warns(RuntimeWarning, match="does not use its fused gramian on cuda:0: m = 3"):
        form = fused.fused_form("gramian", cuda)
    assert form == ("reference", "m = 3: it is wrong")
    assert fused.fused_form("gramian", cuda) is form  # told once
    monkeypatch.setattr(module, "probe", lambda *asked, **options: "bad" * bool(options))
    assert fused.fused_form("gramian", torch.device("cuda", 1)).name == "triton"
    with pytest.warns(RuntimeWarning, match="cuda:1: bad"):  # each choice is checked by itself
        other = fused.fused_form("gramian", torch.device("cuda", 1), cross=True)
    assert other.name == "reference"
    monkeypatch.setattr(dispatch, "REFERENCE_ONLY", True)
    assert fused.fused_form("gramian", torch.device("cuda", 1)).name == "reference"


@pytest.mark.usefixtures("undecided")
def test_a_form_that_does_not_compile_is_named_and_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(*asked: object) -> str:
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    module = importlib.import_module("moopt.kernels.combine.triton")
    monkeypatch.setattr(module, "probe", probe)
    with pytest.warns(RuntimeWarning, match="RuntimeError: PassManager::run failed"):
        assert fused.fused_form("combine", torch.device("cuda", 0)).name == "reference"


@pytest.mark.usefixtures("undecided")
def test_why_there_is_no_fused_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "on cpu" in fused.fused_form("gramian", torch.device("cpu")).why
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "below 8.0" in fused.fused_form("gramian", torch.device("cuda", 0)).why
    fused._on_cuda.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fused.fused_form("gramian", torch.device("cuda", 0)).why == "triton is not installed"
