"""averaged: a row per objective for every parameter, kept from step to step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moopt.gradients.capture import Row


def rows_key(method: Any, position: int | str) -> str:
    """Where the rows of one parameter lie, for a `moopt.aggregators.TrackingAggregator`."""
    return f"moopt_rows_{method.row_name}_{position}"


def allocate_rows(
    memory: Any, method: Any, parameters: Sequence[Tensor], positions: Sequence[int]
) -> list[Tensor]:
    """The rows `[number of objectives, ...]` of each parameter; those of new objectives are zero.

    Args:
        memory: a `moopt.step.method_state.MethodState` in which every objective has a place.
        method: the `moopt.aggregators.TrackingAggregator` whose rows they are.
        parameters: real floating point.
        positions: the number of each parameter among all of the optimizer's.

    Raises:
        ValueError: the rows that were kept do not have the shape of their parameter.
        TypeError: a parameter is complex.
    """
    count, out = len(memory.names), []
    for parameter, position in zip(parameters, positions, strict=True):
        if parameter.is_complex():
            raise TypeError(
                f"`{method.name}` tracks real gradients; got a parameter of {parameter.dtype}. Use"
                " a weighting, which works with every dtype."
            )
        key = rows_key(method, position)
        rows = memory.mapping.get(key)
        if rows is None:
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            rows = parameter.new_zeros(0, *parameter.shape, dtype=dtype)
        if rows.shape[1:] != parameter.shape:
            raise ValueError(
                f"the averaged rows of parameter {position} have shape {list(rows.shape[1:])}; the"
                f" parameter has {list(parameter.shape)}. Load the state dict of this model."
            )
        rows = rows.to(parameter.device)
        if len(rows) < count:
            rows = torch.cat([rows, rows.new_zeros(count - len(rows), *parameter.shape)])
        memory.mapping[key] = rows
        out.append(rows)
    return out


def stacked(rows: Sequence[Row], position: int, factors: Tensor, like: Tensor) -> Tensor:
    """The gradients `[m, ...]` of one parameter, each times its factor; 0 where one is missing.

    Args:
        rows: one per objective.
        position: the place of the parameter in each row.
        factors: float64 `[m]`.
        like: a tensor `[any, ...]` of the wanted dtype and device.
    """
    zero = like.new_zeros(like.shape[1:])
    column = [row[position] for row in rows]
    whole = torch.stack([zero if g is None else g.detach().to(like.dtype) for g in column])
    return whole.mul_(factors.to(like).reshape(-1, *[1] * zero.ndim))
