"""The operators: what torch checks of one, compiled equals eager, and fake tensors know shapes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import moopt
from moopt.kernels.combine import combine_
from moopt.kernels.combine import reference as combine_reference
from moopt.kernels.gramian import gramian
from moopt.kernels.gramian import reference as gramian_reference
from moopt.kernels.sketch import sketch
from tests.kernels.gradient_rows import Rows, copied
from tests.kernels.test_gramian_in_a_metric import Metric, Problem, problems

OPS = torch.ops.moopt
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of inductor


def sample(dtype: torch.dtype = torch.float32) -> tuple[Rows, Rows, Metric]:
    """Three rows, two others, a metric: a missing entry, a transposed one, a position of nobody."""
    generator = torch.Generator().manual_seed(0)

    def rows(count: int) -> Rows:
        return [
            [
                torch.randn(40, 300, generator=generator).to(dtype),
                torch.randn(5, 3, generator=generator).to(dtype).T,
                None,
            ]
            for _ in range(count)
        ]

    left, right = rows(3), rows(2)
    left[0][0] = right[1][1] = None
    return left, right, [torch.rand(40, 300, generator=generator), torch.tensor(2.0), None]


def flat(rows: Rows) -> list[Tensor | None]:
    return [g for row in rows for g in row]


def solvable(m: int = 4, *batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(m)
    rows = torch.randn(*batch, m, m + 2, generator=generator, dtype=torch.float64)
    return rows @ rows.mT


def calls() -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """An operator, its arguments and its keywords."""
    rows, others, metric = sample()
    both = flat([*rows, *others])
    targets = [torch.randn(2, 3), torch.randn(4)]
    rest = [None, torch.randn(4), torch.randn(2, 3), None]
    on = torch.ones(4, dtype=torch.bool)
    preference = torch.ones(4, dtype=torch.float64)
    weights = torch.tensor([0.3, -0.7], dtype=torch.float64)
    return {
        "gramian": (OPS.gramian, (flat(rows), 3), {}),
        "no entries": (OPS.gramian, ([], 3), {}),
        "cross": (OPS.gramian, (both, 3), {"k": 2}),
        "metric": (OPS.gramian, (flat(rows), 3), {"metric": metric}),
        "cross in a metric": (OPS.gramian, (both, 3), {"k": 2, "metric": metric}),
        "combine_": (OPS.combine_, (targets, rest, [0, 1], weights), {}),
        "sketch": (OPS.sketch, (flat(rows), 3, 100, -5), {}),
        "min_norm": (OPS.min_norm, (solvable(),), {}),
        "min_norm of a batch": (OPS.min_norm, (solvable(9, 2, 3),), {"max_iter": 5}),
        "dual_cone": (OPS.dual_cone, (solvable(), preference, on), {"separate": True}),
        "dual_cone of a batch": (
            OPS.dual_cone,
            (solvable(4, 2), preference.expand(2, 4), on.expand(2, 4)),
            {"separate": False, "tol": 1e-6},
        ),
    }


@pytest.mark.parametrize("name", calls())
def test_torch_finds_nothing_wrong(name: str) -> None:
    """The schema tells what is written, and the fake form what comes out, of any size."""
    operator, args, keywords = calls()[name]
    torch.library.opcheck(operator.default, args, keywords)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_operator_has_a_derivative(compiled: bool) -> None:
    """The result says so, and backward raises where nothing else needs one."""
    torch._dynamo.reset()

    def results(x: Tensor, matrix: Tensor) -> list[Tensor]:
        on, share = torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.float64)
        return [
            OPS.gramian([2 * x], 1),
            OPS.sketch([2 * x], 1, 4, 0),
            OPS.min_norm(2 * matrix)[0],
            OPS.dual_cone(2 * matrix, share, on, separate=False)[0],
        ]

    run = torch.compile(results, fullgraph=True, backend="aot_eager") if compiled else results
    x, matrix = torch.ones(3, requires_grad=True), torch.eye(2, dtype=torch.float64)
    assert not any(y.requires_grad for y in run(x, matrix.requires_grad_()))


def test_what_torch_finds_wrong() -> None:
    """A write that is not declared, and a shape that is not the one of what comes out."""
    library = torch.library.Library("moopt_planted", "DEF")
    library.define("writes(Tensor a) -> ()")
    library.impl("writes", lambda a: a.add_(1) and None, "CompositeExplicitAutograd")
    library.define("shape(Tensor a) -> Tensor")
    library.impl("shape", lambda a: a.new_zeros(3), "CompositeExplicitAutograd")
    for name in ("writes", "shape"):
        fake: Callable[[Tensor], Tensor | None] = (
            (lambda a: None) if name == "writes" else (lambda a: a.new_empty(2))
        )
        torch.library.register_fake(f"moopt_planted::{name}", fake, lib=library)
        with pytest.raises(torch.testing._internal.optests.OpCheckError):
            torch.library.opcheck(
                getattr(torch.ops.moopt_planted, name).default, (torch.ones(1),), {}
            )


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_is_eager_bit_for_bit(backend: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    rows, others, metric = sample(dtype)
    options = ((None, None), (others, None), (None, metric), (others, metric))

    def products(rows: Rows) -> list[Tensor]:
        twice = [[None if g is None else 2 * g for g in row] for row in rows]
        products = [gramian(twice, other, metric=weights) for other, weights in options]
        return [*products, sketch(twice, 100, 7)]

    compiled = torch.compile(products, fullgraph=True, backend=backend)
    assert all(map(torch.equal, compiled(rows), products(rows)))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_combination_writes_what_the_eager_one_writes(backend: str) -> None:
    torch._dynamo.reset()

    def direction(rows: Rows, weights: Any) -> list[Tensor | None]:
        return combine_(rows, weights)

    compiled = torch.compile(direction, fullgraph=True, backend=backend)
    for weights in ([0.3, 1e-40, -2.0], torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)):
        rows, _, _ = sample()
        there, here = copied(rows), copied(rows)
        found, expected = compiled(there, weights), direction(here, weights)
        assert found[2] is None
        assert found[0] is there[1][0]  # in the memory of the first row that has an entry
        for a, b in zip((*found, *flat(there)), (*expected, *flat(here)), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_whole_step_compiles(backend: str) -> None:
    """Rows that autograd made: one tensor for two parameters, and an expanded one."""
    torch._dynamo.reset()

    def step(x: Tensor, y: Tensor) -> list[Tensor | None]:
        losses = (lambda x, y: (x + y).square().sum(), lambda x, y: (3 * (x + y)).sum())
        rows = [list(torch.func.grad(loss, (0, 1))(x, y)) for loss in losses]
        product = gramian(rows)
        weights, *_ = OPS.min_norm(product)
        return [product, weights, *combine_(rows, weights)]

    x, y = torch.randn(7), torch.randn(7)
    compiled = torch.compile(step, fullgraph=True, backend=backend)(x, y)
    for a, b in zip(compiled, step(x, y), strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


def test_one_tensor_in_two_places_compiles() -> None:
    torch._dynamo.reset()

    def direction(x: Tensor, y: Tensor) -> list[Tensor | None]:
        z = x * y
        return combine_([[z, z, x[:1].expand(4)], [y + 1, x + 1, x]], [0.5, 2.0])

    x, y = torch.randn(4), torch.randn(4)
    compiled = torch.compile(direction, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(x, y), direction(x, y)))


def test_memory_that_is_shared_in_another_way_is_refused_before_anything_is_written() -> None:
    whole = torch.arange(5.0)
    weights = torch.ones(1, dtype=torch.float64)
    for targets in ([whole[:3], whole[2:]], [torch.ones(1).expand(3)]):
        before = [t.clone() for t in targets]
        with pytest.raises(ValueError, match="share their memory with no other gradient"):
            OPS.combine_(targets, [None] * len(targets), [0] * len(targets), weights)
        assert all(map(torch.equal, targets, before))
    OPS.combine_([whole[:3], whole[3:]], [None, None], [0, 0], 2 * weights)
    assert whole.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fake_tensors_know_shapes_dtypes_and_devices(device: str) -> None:
    """Also of a card that is not there."""
    with FakeTensorMode():
        rows: Rows = [
            [
                torch.empty(4, 5, device=device),
                None,
                torch.empty(3, dtype=torch.half, device=device),
            ]
            for _ in range(3)
        ]
        product, cross = gramian(rows), gramian(rows, rows[:2])
        sketched = sketch(rows, 100, 0)
        direction = combine_(rows, [1.0, 2.0, 3.0])
        weights, status, gap, num_iter = OPS.min_norm(product)
        cone = OPS.dual_cone(product, weights, weights > 0, separate=False)
    assert (product.shape, cross.shape, sketched.shape) == ((3, 3), (3, 2), (3, 100))
    for x in (product, cross, sketched, weights, gap, cone[0], cone[2]):
        assert (x.dtype, x.device.type) == (torch.float64, device)
    for x in (status, num_iter, cone[1], cone[3]):
        assert (x.dtype, x.shape, x.device.type) == (torch.int64, (), device)
    assert direction[1] is None
    assert direction[0] is rows[0][0]
    assert direction[2] is rows[0][2]
    # Outside of the mode they are what they were.
    assert gramian(rows).shape == (3, 3)


@settings(deadline=None, max_examples=60)
@given(problem=problems())
def test_fake_is_as_real(problem: Problem) -> None:
    """Any rows: the shapes, dtypes and layouts that the real operation has."""
    rows, others, metric = problem
    real = gramian(rows, others, metric=metric)
    weights = [1.0] * len(rows)
    direction = combine_(copied(rows), weights)
    with FakeTensorMode() as mode:

        def fake(x: Tensor | None) -> Tensor | None:
            return None if x is None else mode.from_tensor(x)

        rows, others = ([list(map(fake, row)) for row in r] for r in (rows, others or []))
        metric = metric and list(map(fake, metric))
        found = gramian(rows, others or None, metric=metric)
        assert (found.shape, found.dtype, found.stride()) == (real.shape, real.dtype, real.stride())
        for a, b in zip(combine_(rows, weights), direction, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: gramian([[x], [x[:2]]]), "agree in shape at every position"),
        (lambda x: gramian([[x], [x, x]]), "one entry per parameter in every row"),
        (lambda x: gramian([[x]], metric=[x[:2]]), "must have the shape of the gradients"),
        (lambda x: sketch([[x], [x, x]], 3, 0), "one entry per parameter in every row"),
        (lambda x: sketch([[x], [x[:2]]], 3, 0), "agree in shape at every position"),
        (lambda x: combine_([[x]], [1.0, 2.0]), r"must have shape \[m\] = \[1\]"),
        (lambda x: combine_([[x], [x[:2]]], [1.0, 2.0]), "agree in shape at every position"),
        (lambda x: OPS.gramian([x, x, x], 2), "3 entries"),
        (lambda x: OPS.gramian([x], 0), "1 entries"),
    ],
)
def test_fake_tensors_meet_the_same_errors(call: Callable[[Tensor], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(torch.ones(3))
    with FakeTensorMode(), pytest.raises(ValueError, match=match):
        call(torch.ones(3))


def test_modes_that_watch_see_the_operators_and_eager_calls_do_not() -> None:
    seen: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    rows, others, _ = sample()
    with Watch():
        watched = gramian(rows, others)
    assert seen == ["moopt.gramian.default"]
    assert torch.equal(watched, gramian(rows, others))
    with FlopCounterMode(display=False), torch.profiler.profile() as profile:
        gramian(rows)
    assert "moopt::gramian" in {event.key for event in profile.key_averages()}
    with torch.profiler.profile() as profile:
        gramian(rows)
        combine_(copied(rows), [1.0, 1.0, 1.0])
    assert not [event.key for event in profile.key_averages() if event.key.startswith("moopt::")]


def test_the_step_does_not_pass_through_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short and long rows: neither function asks for its operator."""
    monkeypatch.setattr(gramian_reference, "is_traced", lambda tensors: pytest.fail("asked"))
    weight = torch.nn.Parameter(torch.zeros(40_000))
    optimizer = moopt.CommonDescent(torch.optim.SGD([weight], lr=0.1))
    with torch.profiler.profile() as profile:
        optimizer.backward({str(i): (weight - i).square().sum() for i in range(8)})
    assert not [event.key for event in profile.key_averages() if event.key.startswith("moopt::")]
    assert combine_reference.is_traced([weight]) is False


def test_nothing_compiles_or_is_imported_for_it() -> None:
    """`torch.library.custom_op` would import torch's compiler in its first call: seconds."""
    code = (
        "import sys, torch, moopt;"
        "torch.ops.moopt.gramian([torch.ones(2)], 1);"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
