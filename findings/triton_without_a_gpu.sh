#!/usr/bin/env bash
# Triton kernels checked without a GPU: in its interpreter, and compiled for another machine's card.
#
# Guesses: the interpreter rounds as the card does; what it takes as a mask does not change between
# releases; and float64 `tl.dot`, which runs in it, compiles for the cards with float64 tensor cores.
#
# Seen with torch 2.13.0:
# - `float32.to(bfloat16)` in the interpreter cuts the low bits off, in Triton 3.6.0 and 3.9.0: half
#   of 4096 normal numbers differ from torch's rounding to the nearest, by up to a whole last place.
# - `float64.to(bfloat16)` in the interpreter takes the low 32 of the 64 bits for a float32: none of
#   the numbers comes out right in either release. By way of float32 they do, but for the first point.
# - A mask that is a comparison of scalars, broadcast (`tl.broadcast_to(n != 0, [B])`), loads in the
#   interpreter of 3.6.0; that of 3.9.0 raises "mask has unsupported dtype", because the broadcast keeps
#   the dtype of the numbers compared. `tl.broadcast_to(n, [B]) != 0` loads in both.
# - `tl.dot` of bfloat16 entries widened to float64 compiles for sm_90 with 3.9.0, into mma
#   instructions; with 3.6.0 it raises "PassManager::run failed", although entries that are float64 in
#   memory compile there too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/interpreted.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def narrowed(x, direct, by_float32, B: tl.constexpr):
    lanes = tl.arange(0, B)
    value = tl.load(x + lanes)
    tl.store(direct + lanes, value.to(tl.bfloat16))
    tl.store(by_float32 + lanes, value.to(tl.float32).to(tl.bfloat16))


@triton.jit
def masked(x, out, n, FIRST: tl.constexpr, B: tl.constexpr):
    lanes = tl.arange(0, B)
    count = tl.load(n)
    if FIRST:
        mask = tl.broadcast_to(count != 0, [B])
    else:
        mask = tl.broadcast_to(count, [B]) != 0
    tl.store(out + lanes, tl.load(x + lanes, mask=mask, other=0.0))


def share_equal(dtype):
    torch.manual_seed(0)
    x = torch.randn(4096, dtype=dtype)
    outs = [torch.zeros(4096, dtype=torch.bfloat16) for _ in range(2)]
    narrowed[(1,)](x, *outs, B=4096)
    return [round(float((out == x.float().bfloat16()).float().mean()), 1) for out in outs]


def loads(first):
    x, out = torch.ones(8), torch.zeros(8)
    try:
        masked[(1,)](x, out, torch.tensor([5]), FIRST=first, B=8)
    except Exception as error:
        return "unsupported dtype" if "mask has unsupported dtype" in str(error) else repr(error)
    return bool((out == 1).all())


print(share_equal(torch.float32), share_equal(torch.float64), loads(True), loads(False))
PYTHON
cat > "$folder/compiled.py" <<'PYTHON'
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(a, b, out, T: tl.constexpr):
    i = tl.arange(0, T)
    at = i[:, None] * T + i[None, :]
    left, right = tl.load(a + at).to(tl.float64), tl.load(b + at).to(tl.float64)
    tl.store(out + at, tl.dot(left, right, out_dtype=tl.float64))


def told(entries):
    names = product.arg_names
    signature = {n: "constexpr" if n == "T" else entries for n in names} | {"out": "*fp64"}
    source = ASTSource(fn=product, signature=signature, constexprs={(names.index("T"),): 16})
    try:
        ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    except RuntimeError as error:
        return str(error)
    return "mma" if "mma.sync" in ptx and "f64" in ptx else "no mma"


print(told("*bf16"), told("*fp64"), sep=", ")
PYTHON
changed=0
check() {  # name, seen, expected
    echo "$1: $2"
    if [ "$2" != "$3" ]; then echo "   CHANGED, was: $3"; changed=1; fi
}
for release in 3.6.0 3.9.0; do
    python3 -m venv "$folder/$release"
    # Triton 3.6.0's interpreter does not run with numpy 2.4.
    "$folder/$release/bin/pip" install --quiet --disable-pip-version-check \
        torch==2.13.0 "numpy<2.4" "triton==$release"
    interpreted=$(TRITON_INTERPRET=1 "$folder/$release/bin/python" -W ignore "$folder/interpreted.py")
    compiled=$(TRITON_CACHE_DIR="$folder/cache" "$folder/$release/bin/python" -W ignore \
        "$folder/compiled.py" 2>/dev/null)
    if [ "$release" = 3.6.0 ]; then
        check "$release interpreted" "$interpreted" "[0.5, 0.5] [0.0, 0.5] True True"
        check "$release compiled" "$compiled" "PassManager::run failed, mma"
    else
        check "$release interpreted" "$interpreted" "[0.5, 0.5] [0.0, 0.5] unsupported dtype True"
        check "$release compiled" "$compiled" "mma, mma"
    fi
done
exit $changed
