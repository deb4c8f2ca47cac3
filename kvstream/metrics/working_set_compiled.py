"""The compiled twin of ``DistinctCounter.add``: one value at a time."""

import numpy as np

from kvstream.blocks.hashing_compiled import mix_one
from kvstream.compiled import compiled
from kvstream.events.frame import I64, U8


@compiled
def add_each(values: I64, registers: U8, bits: int) -> None:
    """Counts integers.

    Args:
        values: The integers, int64 (n,).
        registers: Highest rank of each place, uint8 (2**bits,); changed.
        bits: Of the hash that name the place; the others are ranked.
    """
    mask, ranked = (1 << bits) - 1, 64 - bits
    for value in values:
        hashed = mix_one(value)
        place = hashed & mask
        # A rank exceeds that of the register if no bit is set before it, which it seldom does.
        rest = np.uint64(hashed) >> np.uint64(bits)
        rank = np.int64(registers[place])
        while rank <= ranked and rest >> np.uint64(ranked - rank) == 0:
            rank += 1
        registers[place] = rank
