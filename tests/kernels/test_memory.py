"""Peak extra memory of the gradient kernels, measured by the operating system."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MIB = 1 << 20
ROW_BYTES = 64 * MIB
# Three chunks of float32, their conversions and the allocator's slack; a flattened copy of one
# row alone would take 64 MiB, of all rows 192 MiB.
ALLOWED = 16 * MIB

PROGRAM = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    import torch
    from moopt.kernels.combine import combine_
    from moopt.kernels.gramian import gramian

    torch.set_num_threads(1)
    dtype = getattr(torch, sys.argv[1])
    unit = 1 if sys.platform == "darwin" else 1024

    def rows(total):
        sizes = [total // 2, total // 4] + [total // 256] * 64
        return [[torch.full((n,), 0.5, dtype=dtype) for n in sizes] for _ in range(3)]

    def step(rows, flatten):
        if flatten:
            matrix = torch.stack([torch.cat(row) for row in rows])
            return matrix @ matrix.T
        gramian(rows)
        combine_(rows, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))

    def peak():
        # A child inherits its parent's ru_maxrss, so a large test process would hide everything;
        # Linux's VmHWM starts at 0 with the program.
        status = Path("/proc/self/status")
        if status.exists():
            line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
            return 1024 * int(line.split()[1])
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    step(rows(1 << 18), False)
    big = rows(int(sys.argv[2]) // dtype.itemsize)
    before = peak()
    step(big, sys.argv[3] == "flatten")
    print(peak() - before)
    """
)


def extra_bytes(dtype: str, how: str) -> int:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, dtype, str(ROW_BYTES), how],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    return int(output)


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is Unix only")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_needs_a_few_chunks(dtype: str) -> None:
    assert extra_bytes(dtype, "kernels") <= ALLOWED


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is Unix only")
def test_the_measurement_sees_a_flattened_copy() -> None:
    assert extra_bytes("float32", "flatten") > ALLOWED
