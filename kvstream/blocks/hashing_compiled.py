"""The compiled twin of hashing: one value at a time, for loops that are compiled, too."""

from typing import Any

import numpy as np

from kvstream.compiled import compiled


@compiled
def mix_one(value: int) -> Any:
    """``hashing.mix`` of one 64-bit value, as the signed integer of the same bits."""
    x = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return np.int64(x ^ x >> np.uint64(31))
