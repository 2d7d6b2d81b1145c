"""The tableau of the simplex method: how it starts, and what it says when it ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# The numbers of a problem are at most 1; what the pivots leave of a zero is far below these.
PIVOT = 1e-10
"""An entry this small is no pivot."""

REDUCED = 1e-12
"""A gain this small, relative to its terms, is rounding; so is a violation of the rows."""

TIE = 1e-12
"""Rows whose variables vanish within this of each other tie; the largest pivot of them is taken."""

ROUNDING = 2.0**-50
"""How well an entry of A is known, in units of the longest of its row: a few roundings."""

LARGEST = 1e-6
"""What roundings of A are taken to make of a residual, at most: beyond it nothing is certified."""


class Tableau(NamedTuple):
    """The equations solved for the basic variables.

    Columns: n variables x, p slacks, the largest violation t, the price of the budget, and the
    right-hand side. Rows: p half-spaces, the budget, and the reduced costs of the two phases,
    which minimise t and `-c . x`.

    Attributes:
        table: float64 `[..., p + 3, n + p + 3]`.
        basis: int64 `[..., p + 1]`, the column of each row's basic variable.
        feasible: bool `[...]`, whether t = 0 is reached, or was not needed.
        num_iter: int64 `[...]`, pivots.
    """

    table: Tensor
    basis: Tensor
    feasible: Tensor
    num_iter: Tensor


def equations(c: Tensor, a: Tensor, b: Tensor, s: Tensor, rows: Tensor) -> Tensor:
    """The table before any pivot, float64 `[..., p + 3, n + p + 3]`.

    Args:
        c, a, b, s: `[..., n]`, `[..., p, n]`, `[..., p]`, `[..., n]`; 0 where nothing counts.
        rows: bool `[..., p]`, the rows that count; the slack of another one is the constant 1.
    """
    p = b.shape[-1]
    eye = torch.eye(p, dtype=a.dtype, device=a.device).expand(*a.shape[:-1], p)
    counts = rows.to(a.dtype)[..., None]
    right = torch.where(rows, -b, 1.0)[..., None]
    upper = torch.cat([-a, eye, -counts, 0.0 * counts, right], -1)
    nothing = torch.zeros_like(b)
    one = torch.ones_like(b[..., :1])
    zero = 0.0 * one
    lower = torch.stack(
        [
            torch.cat([s, nothing, zero, one, one], -1),
            torch.cat([0.0 * c, nothing, one, zero, zero], -1),
            torch.cat([-c, nothing, zero, zero, zero], -1),
        ],
        -2,
    )
    return torch.cat([upper, lower], -2)


def first_vertex(table: Tensor, on: Tensor) -> Tableau:
    """The vertex of the variable with the largest budget, with t basic if that violates a row.

    Args:
        table: of `equations`.
        on: bool `[..., n]`, the variables that count.
    """
    n = on.shape[-1]
    p = table.shape[-2] - 3
    lines = torch.arange(p + 3, device=table.device)
    first = torch.where(on, table[..., p, :n], -1.0).argmax(-1)
    table = exchanged(table, (lines == p).expand(table.shape[:-1]), first)
    worst, row = table[..., :p, -1].min(-1)
    hot = (lines == row[..., None]) & (worst < 0.0)[..., None]
    violation = torch.full_like(row, n + p)
    table = exchanged(table, hot, violation)
    labels = lines[: p + 1]
    basis = torch.where(labels == p, first[..., None], n + labels)
    basis = torch.where(hot[..., : p + 1], violation[..., None], basis)
    return Tableau(table, basis, ~(worst < 0.0), torch.zeros_like(row))


def exchanged(table: Tensor, hot: Tensor, column: Tensor) -> Tensor:
    """The tableau with that column's variable basic in the row where `hot` is True.

    Args:
        table: `[..., k, l]`.
        hot: bool `[..., k]`; all False changes nothing.
        column: int64 `[...]`.
    """
    entries = table.take_along_dim(column[..., None, None], -1)
    row = torch.where(hot[..., None], table, 0.0).sum(-2, keepdim=True)
    pivot = torch.where(hot[..., None], entries, 0.0).sum(-2, keepdim=True)
    row = row / torch.where(pivot == 0.0, 1.0, pivot)
    return torch.where(hot[..., None], row, table - entries * row)


def point_and_prices(start: Tensor, end: Tableau) -> tuple[Tensor, Tensor, Tensor]:
    """x `[..., n]`, the prices of the rows `[..., p]` and of the budget `[...]`, refined once.

    The columns of the slacks and of the budget's price hold the inverse of the basis, by which
    one step of iterative refinement takes the rounding of the pivots away.

    Args:
        start: of `equations`.
        end: the last tableau.
    """
    p = end.basis.shape[-1] - 1
    n = end.table.shape[-1] - p - 3
    raw = start[..., : p + 1, :]
    columns = torch.cat([end.table[..., n : n + p], end.table[..., n + p + 1 : n + p + 2]], -1)
    inverse, prices = columns[..., : p + 1, :], -columns[..., p + 2, :]
    chosen = end.basis[..., None] == torch.arange(n + p + 2, device=start.device)
    chosen = chosen.to(start.dtype)
    basic = end.table[..., : p + 1, -1]
    matrix = raw[..., :-1] @ chosen.mT
    error = raw[..., -1] - (matrix @ basic[..., None])[..., 0]
    basic = basic + (inverse @ error[..., None])[..., 0]
    cost = (chosen @ start[..., p + 2, :-1, None])[..., 0]
    slope = cost - (prices[..., None, :] @ matrix)[..., 0, :]
    prices = prices + (slope[..., None, :] @ inverse)[..., 0, :]
    point = (basic[..., None, :] @ chosen)[..., 0, :n]
    return point, -prices[..., :p], -prices[..., p]
