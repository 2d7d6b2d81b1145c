"""counter_random: random numbers that are a function of a seed and a counter, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_WORD = 2**64
_GAMMA = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_MANTISSA = 53
_SMALLEST = 0.5 * 2.0**-_MANTISSA  # In place of zero, whose quantile is infinite.
_ONE_THREAD = 1024  # Up to as many numbers PyTorch starts no thread.
_FEW = 16  # Up to as many numbers plain Python is faster than numpy.


def counter_uniform(seed: int, counter: Tensor, shape: Sequence[int]) -> Tensor:
    """Return uniform numbers in [0, 1), a pure function of `(seed, counter, index)`.

    With `h(x, n)` the n-th output of splitmix64 started at x, entry n (in row-major order) is
    `h(h(h(seed, 0), counter), n) >> 11`, times 2^-53. Entry n does not depend on the shape, so a
    longer draw begins with the shorter one.

    Args:
        seed: any integer; taken modulo 2^64.
        counter: integers `[...]`, the number of the draw, or of each of several. Its device is
            where the numbers are made.
        shape: of one draw.

    Returns:
        float64 `[..., *shape]`, multiples of 2^-53.

    Numerics: 64-bit integer operations that wrap around, so the bits are the same on every device.
    Nothing is read on the host, and no generator is involved: it can be traced and captured, and
    a checkpoint of the counter resumes the sequence exactly. Not for cryptography.

    Example:
        >>> import torch
        >>> from moopt.weightings.counter_random import counter_uniform
        >>> first = counter_uniform(0, torch.tensor(0), (3,))
        >>> torch.equal(first, counter_uniform(0, torch.tensor(0), (2, 2)).flatten()[:3])
        True
        >>> bool((first == counter_uniform(0, torch.tensor(1), (3,))).any())
        False

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014, for the mixer. Nesting it to take a seed, a counter and an index is ours.
    """
    block = _output(_signed(_output_int(seed, 0)), counter.to(torch.int64))
    index = torch.arange(math.prod(shape), dtype=torch.int64, device=counter.device)
    bits = _output(block[..., None], index)
    uniform = _shifted(bits, 64 - _MANTISSA).to(torch.float64) * 2.0**-_MANTISSA
    return uniform.reshape(counter.shape + torch.Size(shape))


def stream_seed(seed: int, stream: int) -> int:
    """A seed of its own for each of several streams (parameters, say) of one seed.

    Args:
        seed: any integer; taken modulo 2^64.
        stream: the number of the stream.

    Example:
        >>> from moopt.weightings.counter_random import stream_seed
        >>> len({stream_seed(seed, stream) for seed in (0, 1, 2**32) for stream in range(3)})
        9
    """
    return _output_int(seed, stream)


def counter_normal(seed: int, counter: Tensor, shape: Sequence[int]) -> Tensor:
    """Return standard normal numbers: the quantiles of `counter_uniform` of the same arguments.

    Args:
        seed, counter, shape: as for `counter_uniform`.

    Returns:
        float64 `[..., *shape]`, below 8.4 in size.

    Numerics: the integer operations are exact, the quantiles may differ between devices in the
    last bits. An exact zero of the uniform numbers counts as half of their resolution.

    Example:
        >>> import torch
        >>> from moopt.weightings.counter_random import counter_normal
        >>> counter_normal(0, torch.arange(1000), (4,)).std(0).round(decimals=1).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    uniform = counter_uniform(seed, counter, shape).clamp_min(_SMALLEST)
    return torch.erfinv(2.0 * uniform - 1.0) * math.sqrt(2.0)


def counter_uniform_on_host(seed: int, counter: int, count: int) -> list[float]:
    """The first `count` numbers of `counter_uniform`, bit for bit, without a tensor operation.

    For a handful of numbers plain Python takes a fraction of the time of any arrays.

    Example:
        >>> import torch
        >>> from moopt.weightings import counter_random
        >>> tensor = counter_random.counter_uniform(7, torch.tensor(2), (4,))
        >>> tensor.tolist() == counter_random.counter_uniform_on_host(7, 2, 4)
        True
    """
    block = _output_int(_output_int(seed, 0), counter)
    if count > _FEW:
        import numpy as np

        words = _outputs(np.uint64(block), np.arange(count, dtype=np.uint64))
        numbers: list[float] = ((words >> np.uint64(64 - _MANTISSA)) * 2.0**-_MANTISSA).tolist()
        return numbers
    return [(_output_int(block, n) >> (64 - _MANTISSA)) * 2.0**-_MANTISSA for n in range(count)]


def counter_normal_on_host(seed: int, counter: int, draws: int, count: int) -> Array:
    """`counter_normal` of so many draws in a row, without a thread.

    Operations of PyTorch on many numbers start threads, which a forked process waits for in vain.

    Args:
        seed: any integer.
        counter: the number of the first draw.
        draws, count: how many draws, and how many numbers in each.

    Returns:
        float64 `[draws, count]`.

    Example:
        >>> import torch
        >>> from moopt.weightings import counter_random
        >>> tensor = counter_random.counter_normal(7, torch.arange(2, 5), (4,))
        >>> bool((tensor.numpy() == counter_random.counter_normal_on_host(7, 2, 3, 4)).all())
        True
    """
    # numpy is loaded by the first use, not by `import moopt`.
    import numpy as np

    counters = np.arange(draws, dtype=np.uint64) + np.uint64(counter % _WORD)
    blocks = _outputs(np.uint64(_output_int(seed, 0)), counters)
    words = _outputs(blocks[:, None], np.arange(count, dtype=np.uint64))
    uniform = (words >> np.uint64(64 - _MANTISSA)) * 2.0**-_MANTISSA
    normal = 2.0 * np.maximum(uniform, _SMALLEST) - 1.0
    for piece in torch.from_numpy(normal).view(-1).split(_ONE_THREAD):
        piece.erfinv_()
    normal *= math.sqrt(2.0)
    return normal


def _outputs(start: Array | np.uint64, numbers: Array) -> Array:
    """`_output_int` of arrays."""
    import numpy as np

    word: Array = (numbers + np.uint64(1)) * np.uint64(_GAMMA) + start
    for shift, factor in _ROUNDS:
        word ^= word >> np.uint64(shift)
        word *= np.uint64(factor)
    return word


# Output n mixes start + (n + 1) a: the increment comes first, since the mixer maps 0 to itself.
def _output(start: Tensor | int, n: Tensor) -> Tensor:
    word = (n + 1) * _signed(_GAMMA) + start
    for shift, factor in _ROUNDS:
        word = (word ^ _shifted(word, shift)) * _signed(factor)
    return word


def _output_int(start: int, n: int) -> int:
    word = (start + (n + 1) * _GAMMA) % _WORD
    for shift, factor in _ROUNDS:
        word = (word ^ (word >> shift)) * factor % _WORD
    return word


def _shifted(word: Tensor, places: int) -> Tensor:
    """A logical shift to the right: torch's is arithmetic, so the copies of the sign are cut."""
    return (word >> places) & (2 ** (64 - places) - 1)


def _signed(word: int) -> int:
    """The int64 with the same bits."""
    return word - _WORD if word >= _WORD // 2 else word
