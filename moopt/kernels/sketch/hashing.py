"""hashing: random bits as a function of a key and a counter, the same on every device.

The generator is SplitMix64, which mixes a counter: no state, and no order in which bits are drawn.
"""

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_FACTORS = (30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)
_MASK = (1 << 64) - 1


def key_of(*numbers: int) -> int:
    """A key of 64 bits from some integers, the order of which counts."""
    key = 0
    for number in numbers:
        key = _mixed(key ^ (number & _MASK))
    return key


def _mixed(counter: int) -> int:
    """What `words` does, for one number."""
    z = (counter + 1) * _STEP & _MASK
    for shift, factor in _FACTORS:
        z = (z ^ (z >> shift)) * factor & _MASK
    return z


def words(key: int, start: int, stop: int, device: torch.device) -> Tensor:
    """int64 `[stop - start]`: 64 random bits for each counter from start to stop."""
    counters = torch.arange(start + 1, stop + 1, device=device)
    z = counters * _signed(_STEP) + _signed(key * _STEP & _MASK)
    for shift, factor in _FACTORS:
        # A shift of int64 keeps the sign: the bits that it moves in are cleared.
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return z


def signs(key: int, start: int, stop: int, device: torch.device) -> Tensor:
    """float32 `[stop - start]` of 1 and -1, one bit for each counter from start to stop."""
    first = start // 64
    drawn = words(key, first, -(-stop // 64), device)
    shifts = torch.arange(0, 64, 8, device=device)
    octets = (drawn[:, None] >> shifts) & 255
    table = 1.0 - 2.0 * ((torch.arange(256, device=device)[:, None] >> _BITS.to(device)) & 1)
    return table.index_select(0, octets.view(-1)).view(-1)[start - 64 * first : stop - 64 * first]


_BITS = torch.arange(8)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
