"""operators: the operations on big tensors as operators of torch, `torch.ops.moopt.*`.

`torch.compile`, `torch.export` and `FakeTensorMode` see one node in place of the Python inside,
and know shapes, dtypes and devices of what comes out. Rows are one flat list, the first row first.
The Python functions call their operator where they are traced, and are called by it.

Nothing here uses `torch.library.custom_op`: it registers in 1.5 ms, and its first call imports
torch's compiler, which takes seconds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.kernels.combine.reference import write_combination_
from moopt.kernels.dual_cone.reference import dual_cone_reference
from moopt.kernels.fused import fused_form
from moopt.kernels.gramian.reference import measured_gramian
from moopt.kernels.metric import with_metric
from moopt.kernels.min_norm.reference import LARGEST_FUSED, min_norm_reference
from moopt.kernels.pieces import positions
from moopt.kernels.sketch.reference import sketch_reference

Entries = Sequence[Tensor | None]

LIBRARY = torch.library.Library("moopt", "DEF")
"""Holds the registrations: they end with it."""


def _register(schema: str, run: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    """Define an operator.

    Args:
        schema: in the language of torch's native functions.
        run: what it does, on every device.
        shapes: what it returns, without data.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    # Without `no_grad` what is inside would record a derivative, which no compiled graph has.
    LIBRARY.impl(name, torch.no_grad()(run), "CompositeExplicitAutograd")
    LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"moopt::{name}", shapes, lib=LIBRARY)


def _in_rows(entries: Entries, count: int) -> list[Entries]:
    """`count` rows of one length from their entries."""
    length, rest = divmod(len(entries), count) if count > 0 else (0, 1)
    if rest:
        raise ValueError(
            f"`rows` must hold the entries of {count} rows of one length, the first row first; got"
            f" {len(entries)} entries. Pass None where a row has no gradient."
        )
    return [entries[i * length : (i + 1) * length] for i in range(count)]


def _gramian(entries: Entries, m: int, *, k: int = 0, metric: Entries | None = None) -> Tensor:
    rows = _in_rows(entries, m + k)
    return measured_gramian(rows[:m], rows[m:] if k else None, metric=metric)[0]


def _gramian_shapes(
    entries: Entries, m: int, *, k: int = 0, metric: Entries | None = None
) -> Tensor:
    rows = _in_rows(entries, m + k)
    checked = positions(rows, caller="gramian")
    if metric is not None:
        with_metric(checked, rows, metric)
    device = next((g.device for g in entries if g is not None), None)
    return torch.empty(m, k or m, dtype=torch.float64, device=device)


def _sketch(entries: Entries, m: int, size: int, seed: int) -> Tensor:
    return sketch_reference(_in_rows(entries, m), size, seed)


def _sketch_shapes(entries: Entries, m: int, size: int, seed: int) -> Tensor:
    positions(_in_rows(entries, m), caller="sketch")
    device = next((g.device for g in entries if g is not None), None)
    return torch.empty(m, size, dtype=torch.float64, device=device)


def _combine_(targets: Sequence[Tensor], rest: Entries, first: Sequence[int], w: Tensor) -> None:
    write_combination_(_with_targets(targets, rest, first, len(w)), w)


def _combine_shapes(
    targets: Sequence[Tensor], rest: Entries, first: Sequence[int], w: Tensor
) -> None:
    positions(_with_targets(targets, rest, first, len(w)), caller="combine_")


def _with_targets(
    targets: Sequence[Tensor], rest: Entries, first: Sequence[int], m: int
) -> list[list[Tensor | None]]:
    rows = [list(row) for row in _in_rows(rest, m)]
    for t, (target, i) in enumerate(zip(targets, first, strict=True)):
        rows[i][t] = target
    return rows


def _min_norm(
    gramian: Tensor,
    active: Tensor | None = None,
    *,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> tuple[Tensor, ...]:
    m = gramian.shape[-1]
    if m <= LARGEST_FUSED and fused_form("min_norm", gramian.device, width=m).name == "triton":
        from moopt.kernels.min_norm.triton import min_norm_triton

        return min_norm_triton(gramian, active, tol=tol, max_iter=max_iter)
    found = min_norm_reference(gramian, active, tol=tol, max_iter=max_iter)
    return tuple(x.contiguous() for x in found)


def _min_norm_shapes(
    gramian: Tensor, active: Tensor | None = None, **settings: object
) -> tuple[Tensor, ...]:
    return _solved_shapes(gramian, gramian.shape[:-2])


def _dual_cone(
    gramian: Tensor,
    preference: Tensor,
    active: Tensor,
    *,
    separate: bool,
    tol: float = 1e-10,
    max_iter: int | None = None,
) -> tuple[Tensor, ...]:
    found = dual_cone_reference(
        gramian, preference, active, separate=separate, tol=tol, max_iter=max_iter
    )
    return tuple(x.contiguous() for x in found)


def _dual_cone_shapes(
    gramian: Tensor, preference: Tensor, active: Tensor, **settings: object
) -> tuple[Tensor, ...]:
    return _solved_shapes(gramian, gramian.shape[:-2])


def _solved_shapes(gramian: Tensor, batch: Sequence[int]) -> tuple[Tensor, ...]:
    """Weights, status, gap and the number of pivots."""
    weights = gramian.new_empty((*batch, gramian.shape[-1]))
    status, num_iter = (gramian.new_empty(batch, dtype=torch.int64) for _ in range(2))
    return weights, status, gramian.new_empty(batch), num_iter


_register(
    "gramian(Tensor?[] rows, int m, *, int k=0, Tensor?[]? metric=None) -> Tensor",
    _gramian,
    _gramian_shapes,
)
_register("sketch(Tensor?[] rows, int m, int size, int seed) -> Tensor", _sketch, _sketch_shapes)
_register(
    "combine_(Tensor(a!)[] targets, Tensor?[] rest, int[] first, Tensor weights) -> ()",
    _combine_,
    _combine_shapes,
)
_register(
    "min_norm(Tensor gramian, Tensor? active=None, *, float tol=1e-10, int? max_iter=None)"
    " -> (Tensor weights, Tensor status, Tensor gap, Tensor num_iter)",
    _min_norm,
    _min_norm_shapes,
)
_register(
    "dual_cone(Tensor gramian, Tensor preference, Tensor active, *, bool separate,"
    " float tol=1e-10, int? max_iter=None)"
    " -> (Tensor weights, Tensor status, Tensor gap, Tensor num_iter)",
    _dual_cone,
    _dual_cone_shapes,
)
