"""draws: the random numbers of one step, a function of a seed and a counter alone."""

import numpy as np

COUNTER = "counter"
"""The key of a random method's state: how many draws it has made."""

_WORD = 2**64


def draws(seed: int, counter: int, stream: int = 0) -> "np.random.Generator":
    """A numpy generator of its own for each draw of a seed: the same one for the same arguments.

    A method keeps the counter as its state and nothing else: a run resumed from a checkpoint
    draws what an uninterrupted one would have drawn, and no global generator is touched.

    Args:
        seed: any integer; taken modulo 2^64.
        counter: the number of the draw; taken modulo 2^64.
        stream: tells apart users of one seed, such as the tensors of a model; taken modulo 2^64.

    Returns:
        A generator whose numbers never overlap with those of other arguments: seed and stream are
        the key of Philox, the draw is the second of the four words of its counter, and the numbers
        of one draw only move the first word, which lasts for 2^66 of them.

    Numerics: the bits of Philox are fixed by its definition. How numpy turns them into normal
    numbers and permutations may change with a version of numpy.

    Example:
        >>> from moopt.weightings.draws import draws
        >>> first = draws(0, 7).random(3)
        >>> bool((first == draws(0, 7).random(3)).all())
        True
        >>> bool((first == draws(0, 8).random(3)).any())
        False

    Source: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy
    as 1, 2, 3", SC 2011, https://doi.org/10.1145/2063384.2063405.
    """
    # `import torch` loads numpy, but not this part of it.
    from numpy.random import Generator, Philox

    key = np.array([seed % _WORD, stream % _WORD], dtype=np.uint64)
    place = np.array([0, counter % _WORD, 0, 0], dtype=np.uint64)
    return Generator(Philox(key=key, counter=place))


def random_orders(seed: int, counter: int, m: int) -> list[list[int]]:
    """For each of m objectives the m - 1 others, in an independent uniformly random order.

    Example:
        >>> from moopt.weightings.draws import random_orders
        >>> [sorted(others) for others in random_orders(0, 7, 3)]
        [[1, 2], [0, 2], [0, 1]]
    """
    # Sorting independent numbers gives every order alike. An objective comes last for itself.
    numbers = draws(seed, counter).random((m, m))
    np.fill_diagonal(numbers, 1.0)
    orders: list[list[int]] = numbers.argsort(axis=1)[:, : m - 1].tolist()
    return orders
