"""What the compiler makes of the kernels for cards that are not here; see `compiled_kernels`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels import compiled_kernels
from tests.kernels.fused import device  # noqa: F401  (skips without triton)

WIDE = {"bf16": 3, "fp32": 5, "fp64": 6}
"""Up to this width 128 bits of a row are loaded at a time where pairs have sums of their own."""

SPILLED = {"combine_update_kernel": 8, "gramian_min_norm_kernel": 32, "solve_kernel": 32}
"""Bytes of a thread. For eight rows in bfloat16 the assembler of 3.9 prefers them to a register; of
a step they are in the one program that solves, in no loop over entries."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    # Triton 3.9 warns that a default will change.
    command = [sys.executable, "-W", "ignore", "-m", compiled_kernels.__name__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nothing_spills(rows: list[dict[str, Any]]) -> None:
    assert {row["capability"] for row in rows} == {80, 90}
    assert {row["kernel"] for row in rows} == {
        *("pairs_kernel", "tiles_kernel", "combine_kernel", "min_norm_kernel"),
        *("gramian_min_norm_kernel", "solve_kernel", "dual_cone_kernel"),
        *("combine_update_kernel", "label_kernel"),
    }
    assert [row for row in rows if row["spills"] > SPILLED.get(row["kernel"], 0)] == []


def test_rows_are_read_128_bits_at_a_time(rows: list[dict[str, Any]]) -> None:
    wide = [
        row
        for row in rows
        if row["kernel"] in ("combine_kernel", "combine_update_kernel")
        or (
            row["kernel"] == "pairs_kernel"
            and row["width"] <= WIDE[row["dtype"]]
            # In a metric a thread holds four entries of a row: 64 bits of bfloat16.
            and not ("METRIC" in row["options"] and row["dtype"] == "bf16")
        )
    ]
    assert len(wide) >= 130
    assert [row for row in wide if "128" not in row["loads"]] == []


def test_the_products_of_logits_are_fed_128_bits_at_a_time(rows: list[dict[str, Any]]) -> None:
    labels = [row for row in rows if row["kernel"] == "label_kernel"]
    assert {row["dtype"] for row in labels} == {"bf16", "fp16", "fp32"}
    for row in labels:
        assert row["loads"]["128"] >= 8
        exact = row["dtype"] == "fp32" and row["precision"] == "ieee"
        assert (row["tensor_cores"] == 0) == exact


def test_programs_of_several_warps_wait_for_each_other(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["kernel"] == "min_norm_kernel":
            assert (row["barriers"] > 0) == (row["width"] > 8)
        elif row["kernel"] in ("pairs_kernel", "tiles_kernel"):
            assert row["barriers"] > 0


def test_unaligned_rows_are_read_one_element_at_a_time() -> None:
    """What the check of the widths finds where the main loop says nothing of alignment."""
    code = (
        "import re; from tests.kernels import compiled_kernels as c;"
        "k, _, _, constants, warps = next(c.kernels());"
        "ptx = c.compiled(k, constants | {'ALIGNED': False}, warps, 90).asm['ptx'];"
        "print(bool(re.search(r'ld\\.global[\\w.]*\\.v4', ptx)))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
