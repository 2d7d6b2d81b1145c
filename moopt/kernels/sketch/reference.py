"""A random projection of m rows of gradients, in plain PyTorch."""

import torch
from torch import Tensor

from moopt.kernels.pieces import Position, Rows, check_lengths, numel, pieces, positions
from moopt.kernels.sketch.hashing import key_of, signs, words
from moopt.kernels.traced import is_traced

# Elements of one row that are looked at together.
_HOST_CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 22
# On the host so long a block is added by itself.
_LONG_BLOCK = 1 << 10
_SIGNS, _SHIFTS = 0, 1
_HOST = torch.device("cpu")


@torch.no_grad()
def sketch(rows: Rows, size: int, seed: int) -> Tensor:
    r"""Project m rows of gradients to `size` numbers each, whose inner products are near the rows'.

    .. math:: s_{ij} = \sum_{t, e :\, h_t(e) = j} \sigma_t(e) \, g_{i,t,e}

    `sketch(rows, size, seed) @ sketch(rows, size, seed).T` estimates `gramian(rows)`, and
    `sketch(a) @ sketch(b).T` the products of two lists of rows. It is linear: sketches of
    micro-batches, of processes, of averages are added up and scaled as the gradients would be.

    Args:
        rows: `m >= 1` sequences of `T` tensors, as for `gramian`. None is a zero gradient.
        size: how many numbers, at least 1; 2^12 to 2^18 in practice.
        seed: any integer. The projection depends on it, on `size`, on a tensor's place in the
            row and on an element's place in the tensor, and on nothing else: not on the device,
            the process, the dtype, the layout in memory or what is None.

    Returns:
        float64 `[m, size]` on the rows' device.

    Raises:
        ValueError: if rows disagree in length, shape or device, or `size` is not positive.
        TypeError: if a tensor is sparse or not floating point, or `size` or `seed` no integer.

    Numerics:
        Over the seeds the estimate of an inner product is right on average, with a variance of at
        most `(||g_i||^2 ||g_j||^2 + <g_i, g_j>^2) / size`: the root mean square error of a
        cosine c is `sqrt((1 + c^2) / size)`, 1.6 to 2.2 % for 2^12, 0.2 to 0.3 % for 2^18. All
        rows of one comparison need one seed; a new seed for every step lets the errors average.
        Sums are float64; each gradient is read once, the extra memory is a few chunks, and nothing
        synchronises. Two calls on one device give the same bits; devices may differ in rounding.

    Example:
        >>> import torch
        >>> from moopt.kernels.sketch import sketch
        >>> rows = [[torch.ones(10_000), None], [torch.ones(10_000), torch.ones(5)]]
        >>> s = sketch(rows, 4096, seed=0)
        >>> bool(((s @ s.T) / 1e4 - 1).abs().max() < 0.1)
        True

    Source:
        M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", ICALP,
        2002; the variance: K. Weinberger et al., "Feature hashing for large scale multitask
        learning", ICML, 2009. In place of a hash for each element a block of `size` elements
        is turned by a random shift, so that no two elements of a block meet. The bits: G. Steele,
        D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA, 2014.
    """
    for name, value in (("size", size), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
            raise TypeError(f"`{name}` of `sketch` must be an integer; got {value!r}. Use 4096.")
    if size < 1:
        raise ValueError(f"`size` of `sketch` must be at least 1; got {size}. Use 4096.")
    entries = [g for row in rows for g in row]
    if is_traced(entries):
        check_lengths(rows, caller="sketch")
        traced: Tensor = torch.ops.moopt.sketch(entries, len(rows), size, seed)
        return traced
    return sketch_reference(rows, size, seed)


@torch.no_grad()
def sketch_reference(rows: Rows, size: int, seed: int) -> Tensor:
    """As `sketch`, which has checked the numbers."""
    checked = positions(rows, caller="sketch")
    device = next((g.device for p in checked for g in p if g is not None), _HOST)
    chunk = _HOST_CHUNK if device.type == "cpu" else _DEVICE_CHUNK
    total = torch.zeros(len(rows), size, dtype=torch.float64, device=device)
    for t, position in enumerate(checked):
        keys = key_of(seed, t, _SIGNS), key_of(seed, t, _SHIFTS)
        start = 0
        for piece in pieces(position, chunk, in_order=True):
            _add_(total, piece, start, *keys)
            start += numel(piece)
    return total


def _add_(total: Tensor, piece: Position, start: int, sign_key: int, shift_key: int) -> None:
    """Add the elements from `start` on of one position to the sketches."""
    size, device, stop = total.shape[1], total.device, start + numel(piece)
    first, last = start // size, -(-stop // size)
    # Hashed on the host, where they are needed: no device is waited for.
    shifts = ((words(shift_key, first, last, _HOST) >> 1) & (2**63 - 1)) % size
    flips = signs(sign_key, start, stop, device)
    signed = torch.zeros(len(piece), stop - start, dtype=torch.float64, device=device)
    for row, gradient in zip(signed, piece, strict=True):
        if gradient is not None:
            torch.mul(gradient.reshape(-1), flips, out=row)
    if last - first == 1 or (size >= _LONG_BLOCK and device.type == "cpu"):
        _add_blocks_(total, signed, start % size, shifts.tolist())
    else:
        _gather_blocks_(total, signed, start % size, shifts.to(device, non_blocking=True))


def _add_blocks_(total: Tensor, signed: Tensor, begin: int, shifts: list[int]) -> None:
    """Block by block: each is two runs of the sketch, behind and before its end."""
    size, length = total.shape[1], signed.shape[1]
    offset = 0
    for shift in shifts:
        run = min(size - begin, length - offset)
        at = (begin + shift) % size
        behind = min(run, size - at)
        total[:, at : at + behind] += signed[:, offset : offset + behind]
        total[:, : run - behind] += signed[:, offset + behind : offset + run]
        begin, offset = 0, offset + run


def _gather_blocks_(total: Tensor, signed: Tensor, begin: int, shifts: Tensor) -> None:
    """All blocks in a few calls."""
    m, size = total.shape
    blocks = signed.new_zeros(m, len(shifts) * size)
    blocks[:, begin : begin + signed.shape[1]] = signed
    # Entry j of a block that is turned by s was entry j - s.
    place = torch.arange(size, device=total.device) - shifts[:, None]
    place += size * (place < 0)
    for row, block in zip(total, blocks.view(m, -1, size), strict=True):
        row += block.gather(1, place).sum(0)
