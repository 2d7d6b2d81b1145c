"""Rules of what a call takes and gives: types, leading dimensions, the same bits."""

import torch
from torch import Tensor

from moopt.records.status import SolverStatus
from moopt.testing.directions import (
    DIRECTION_TOL,
    Build,
    losses_of,
    mask_of,
    statistics,
    weigh,
)
from moopt.testing.sampling import DTYPES, Case
from moopt.weightings import WeightingOutput


def check_output(build: Build, case: Case) -> None:
    """It returns a `WeightingOutput` of a tensor and a flat dictionary of tensors."""
    output = weigh(build, case)
    made = type(output).__name__
    assert isinstance(output, WeightingOutput), (
        f"the call must return a WeightingOutput; got {made}. Return WeightingOutput(weights,"
        " state, result), with {} and None for no state and no solver"
    )
    assert isinstance(output.weights, Tensor), (
        f"weights must be a float64 tensor; got {type(output.weights).__name__}"
    )
    assert isinstance(output.state, dict), (
        f"the state must be a dict of tensors, {{}} for none; got {type(output.state).__name__}"
    )
    result = output.result
    lost = result is not None and int(result.status) == SolverStatus.OUT_OF_DOMAIN
    assert not (lost and build(range(case.m)).reads_gradients), (
        "the weights of finite gradients are not finite; got NaN or infinity from `weigh`. Guard"
        " every division: a norm is > 0, a sum of cosines may be 0"
    )
    odd = [key for key, value in output.state.items() if not isinstance(value, Tensor)]
    assert not odd, f"the state must be flat, of tensors; {odd} are not"


def check_types(build: Build, case: Case) -> None:
    """float64 weights on the Gramian's device, whatever its dtype; no graph."""
    output, weighting = weigh(build, case), build(range(case.m))
    weights = output.weights
    assert weights.shape == (case.m,), f"{case.m} objectives got weights {list(weights.shape)}"
    assert weights.device == case.gramian.device, "the weights must be on the Gramian's device"
    assert not weights.requires_grad, "the weights carry a graph: detach the Gramian"
    for dtype in DTYPES:
        coarse = case.gramian.to(dtype)
        # The same noise for both: a coarse Gramian alone would be taken for a less exact one.
        noise = float(torch.finfo(dtype).eps)
        weights = weighting(statistics(coarse, losses_of(case), noise=noise)).weights
        assert weights.dtype == torch.float64, (
            f"weights must be float64 whatever the Gramian is; got {weights.dtype} for {dtype}."
            " Begin with `statistics.gramian.double()`"
        )
        exact = weighting(statistics(coarse.double(), losses_of(case), noise=noise)).weights
        assert torch.equal(weights, exact), (
            f"a Gramian in {dtype} must be worked on in float64; the weights differ from those of"
            " `gramian.double()`"
        )
    if output.result is not None:
        assert output.result.status.dtype == torch.int64, "`result.status` must be int64"
        assert output.result.status.shape == output.result.gap.shape == (), (
            "`result.status` and `result.gap` must have the Gramian's leading dimensions"
        )


def check_batch(build: Build, case: Case) -> None:
    """Leading dimensions are independent parameter groups, each with its own mask."""
    weighting = build(range(case.m))
    other = torch.eye(case.m, dtype=torch.float64) * float(case.norms.max().clamp_min(1.0)) ** 2
    groups = torch.stack([case.gramian, other, case.gramian])
    masks = torch.stack([mask_of(case) | True, mask_of(case) | True, mask_of(case)])
    batched = weighting(statistics(groups, losses_of(case), masks)).weights
    assert batched.shape == (3, case.m), (
        f"a Gramian {list(groups.shape)} must give weights {[3, case.m]}; got {list(batched.shape)}"
    )
    for gramian, mask, weights in zip(groups, masks, batched, strict=True):
        alone = weighting(statistics(gramian, losses_of(case), mask)).weights
        difference = weights - alone
        # Compared as directions: on dependent rows the weights themselves are not determined.
        length = float((difference @ gramian @ difference).clamp_min(0.0).sqrt())
        scale = float((alone.abs() * gramian.diagonal().sqrt()).sum())
        assert length <= DIRECTION_TOL * scale, (
            f"a group in a batch gets {weights.tolist()}, alone {alone.tolist()}: leading"
            " dimensions must not mix"
        )


def check_determinism(build: Build, case: Case) -> None:
    """Bit for bit, and without writing to the input."""
    gramian = case.gramian
    given = statistics(gramian, losses_of(case), mask_of(case))
    first, second = (build(range(case.m))(given).weights for _ in range(2))
    assert torch.equal(first, second), (
        f"the same input gives {first.tolist()} and then {second.tolist()}. Keep what changes in"
        " the state, random numbers as functions of a counter in it"
    )
    assert torch.equal(gramian, case.gramian), "the Gramian was written to"
