"""Randomness by counter: the same words give the same numbers on any machine and version, and nothing is stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Words = NDArray[np.uint64]


def draws(n: int, *words: int) -> Words:
    """`n` random 64-bit numbers named by `words` (seed, purpose, epoch, ...), `[n]`."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = mix(state + _GOLDEN + np.array([word & 0xFFFFFFFFFFFFFFFF], np.uint64))
    return mix(state + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64))


def mix(state: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit numbers without visible order."""
    state = (state ^ (state >> np.uint64(30))) * _FACTORS[0]
    state = (state ^ (state >> np.uint64(27))) * _FACTORS[1]
    return state ^ (state >> np.uint64(31))


def uniform(words: Words) -> NDArray[np.float64]:
    """Random numbers as floats in `[0, 1)`."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(n: int, *words: int) -> NDArray[np.int64]:
    """A random permutation of `0 ... n - 1` named by `words`."""
    return np.argsort(draws(n, *words), kind="stable")
