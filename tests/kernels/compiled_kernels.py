"""Compile the fused kernels for cards that are not here, and print what the code looks like.

Run without TRITON_INTERPRET: `python -m tests.kernels.compiled_kernels`. One line of JSON for each
kernel: {"kernel", "capability", "width", "dtype", "options", "spills", "registers", "loads",
"barriers"}. `options` are the constants beside width, dtype and block, those that are on.
`loads` are the global loads of the entries' dtype in the main loop, by their width in bits.
kernel: {"kernel", "capability", "width", "dtype", "spills", "registers", "loads", "barriers",
"tensor_cores"}. `loads` are the global loads, asynchronous ones of 16 bytes included, by their
width in bits; `tensor_cores` are the instructions that use them.
"""

from __future__ import annotations

import collections
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from moopt.kernels.combine import triton as combine
from moopt.kernels.combine_update import triton as combine_update
from moopt.kernels.dual_cone import triton as dual_cone
from moopt.kernels.gramian import triton as gramian
from moopt.kernels.gramian_min_norm import triton as gramian_min_norm
from moopt.kernels.min_norm import triton as min_norm
from moopt.kernels.token_logprob import triton as token_logprob
from moopt.records.device_point import DevicePoint

CAPABILITIES = (80, 90)
POINTERS = {
    "addresses": "*i64",
    "targets": "*i64",
    "parts": "*i64",
    "left": "*i64",
    "right": "*i64",
    "metric": "*i64",
    "partial": "*fp64",
    "total": "*fp64",
    "weights": "*fp64",
    "gramians": "*fp64",
    "actives": "*i8",
    "statuses": "*i64",
    "gaps": "*fp64",
    "counts": "*i64",
    "tol": "fp64",
    **dict.fromkeys(("losses", "kept", "preferences", "scales", "packed"), "*fp64"),
    **{"counter": "*i32", "known": "i64", "inactive_tol": "fp32", "eps": "fp32"},
    "scalars": "*fp64",
    "owns": "*fp32",
    "largests": "*fp32",
    "totals": "*fp32",
}
DTYPES = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


def kernels() -> Iterator[tuple[Any, int, str, dict[str, Any], int]]:
    """Kernel, width, dtype, constants and warps of everything that is compiled."""
    for dtype in (tl.bfloat16, tl.float32, tl.float64):
        aligned = {"TYPE": dtype, "ALIGNED": True}
        for metric in dict.fromkeys((None, tl.float32, dtype)):
            scaled = {"METRIC": metric is not None, "METRIC_TYPE": metric or dtype}
            blocks = gramian.METRIC_BLOCKS if metric else gramian.BLOCKS
            for m, block in blocks.items():
                constants = {"M": m, "BLOCK": block, **aligned, **scaled}
                yield gramian.pairs_kernel, m, str(dtype), constants, 4
            for tile in (16,) if metric or dtype == tl.float64 else (16, gramian.LARGEST_TILE):
                for same in (True, False):
                    constants = {"TILE": tile, "BLOCK": gramian.TILE_BLOCK, "SAME": same}
                    constants |= {"TYPE": dtype, **scaled}
                    yield gramian.tiles_kernel, tile, str(dtype), constants, 4
        for m in (1, 3, 8, 32):
            constants = {"M": m, "BLOCK": combine.BLOCK, **aligned}
            yield combine.combine_kernel, m, str(dtype), constants, 4
            for held in (1, 2, 3, 4):
                kernel = combine_update.combine_update_kernel
                yield kernel, m, str(dtype), {"HELD": held, **constants}, 4
    for m, point in itertools.product((1, 3, 6), (DevicePoint.HULL, DevicePoint.CONE_OF_EACH)):
        step = {"PREFERRED": True, "POINT": int(point)}
        tile = min_norm.tile_of(m)
        constants = {"M": m, "TILE": tile, "WIDTH": 1024, "BLOCK": gramian.BLOCKS[m], **step}
        constants |= {"TYPE": tl.bfloat16, "ALIGNED": True}
        yield gramian_min_norm.gramian_min_norm_kernel, m, "bf16", constants, 4
    for m, point in itertools.product((8, 16, 32), (DevicePoint.HULL, DevicePoint.CONE_OF_EACH)):
        tile = min_norm.tile_of(m)
        constants = {"M": m, "TILE": tile, "PREFERRED": True, "POINT": int(point)}
        yield gramian_min_norm.solve_kernel, m, "fp64", constants, min_norm.warps_of(tile)
    for m, separate in itertools.product((2, 3, 8, 16, 32), (True, False)):
        tile = min_norm.tile_of(m)
        constants = {"M": m, "TILE": tile, "SEPARATE": separate}
        yield dual_cone.dual_cone_kernel, m, "fp64", constants, min_norm.warps_of(tile)
    for m in (2, 3, 8, 16, 32, 64):
        tile = min_norm.tile_of(m)
        yield min_norm.min_norm_kernel, m, "fp64", {"M": m, "TILE": tile}, min_norm.warps_of(tile)


def label_kernels() -> Iterator[tuple[Any, str, dict[str, Any], token_logprob.Shape]]:
    """Kernel, dtype, constants and shape of the labels' log-probabilities."""
    for dtype, shape in token_logprob.SHAPES.items():
        constants = {
            **{"HAS_BIAS": True, "ROWS": shape.rows, "COLUMNS": shape.columns},
            **{"DEPTH": shape.depth, "EVEN": True, "PRECISION": "ieee", "WIDEN": False},
        }
        for precision in ("ieee", "tf32") if dtype == torch.float32 else ("ieee",):
            for even in (True, False):
                chosen = constants | {"PRECISION": precision, "EVEN": even}
                yield token_logprob.label_kernel, str(DTYPES[dtype]), chosen, shape


def compiled(
    kernel: Any,
    constants: dict[str, Any],
    warps: int,
    capability: int,
    *,
    entries: dict[str, str] | None = None,
    stages: int | None = None,
) -> Any:
    """Compile for a card. `entries` are pointers and strides that are multiples of 16."""
    names = kernel.arg_names
    types = POINTERS | (entries or {})
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in entries or {}},
    )
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": warps} | ({} if stages is None else {"num_stages": stages})
    return triton.compile(source, target=target, options=options)


def spills_and_registers(ptx: str, capability: int) -> tuple[int, int]:
    """Bytes that the assembler spills, and the registers of a thread."""
    assembler = get_ptxas(capability).path
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
        command = [assembler, "-v", f"--gpu-name={arch}", source, "-o", Path(folder) / "out"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", told)))
    return spills, max(map(int, re.findall(r"Used (\d+) registers", told)))


ALIGNED = {"hidden_stride": "i32", "weight_stride": "i32", "width": "i32", "targets": "*i64"}


def row_of(kernel: Any, width: int, dtype: str, capability: int, ptx: str) -> dict[str, Any]:
    loads = collections.Counter(
        int(count or 1) * int(bits)
        for count, bits in re.findall(r"ld\.global[\w.]*?(?:\.v(\d))?\.b(\d+)", ptx)
    )
    loads[128] += len(re.findall(r"cp\.async\.c[ga]\.shared\.global[^;]*, 0x10", ptx))
    spills, registers = spills_and_registers(ptx, capability)
    return {
        "kernel": kernel.__name__,
        "capability": capability,
        "width": width,
        "dtype": dtype,
        "spills": spills,
        "registers": registers,
        "loads": {str(k): v for k, v in sorted(loads.items()) if v},
        "barriers": len(re.findall(r"bar\.sync|barrier\.", ptx)),
        "tensor_cores": len(re.findall(r"mma\.", ptx)),
    }


def main() -> None:
    for kernel, width, dtype, constants, warps in kernels():
        for capability in CAPABILITIES:
            ptx = compiled(kernel, constants, warps, capability).asm["ptx"]
            row = row_of(kernel, width, dtype, capability, ptx)
            options = [name for name, value in constants.items() if value is True]
            print(json.dumps(row | {"options": options}))
    for kernel, dtype, constants, shape in label_kernels():
        entries = ALIGNED | {name: f"*{dtype}" for name in ("hidden", "weight", "bias")}
        for capability in CAPABILITIES:
            ptx = compiled(
                *(kernel, constants, shape.warps, capability), entries=entries, stages=shape.stages
            ).asm["ptx"]
            row = row_of(kernel, 0, dtype, capability, ptx)
            print(json.dumps(row | {"precision": constants["PRECISION"]}))


if __name__ == "__main__":
    main()
