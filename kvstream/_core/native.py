"""What ``native.pxd`` has for the compiled core, for the interpreted one."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.events.types import Op

BIRTH, COUNT, TIMES = 0, 1, 2  # columns of a row of the block table: birth, access count, first of the times
LINE = 8  # 64-bit integers in a line of memory
AHEAD = 32  # events that are applied while memory answers; a power of two

NOT_LIVE = -1
"""Access count of a slot that holds no block."""

EMPTY, REMOVED = -1, -2
"""In a place of the index that never held a slot, and in one that does not hold it any more."""

# Operation codes, each by its name in Op.
globals().update((name, code) for name, code in vars(Op).items() if name.isupper())


def leading_digits(value: int, digits: int) -> int:
    """Return the power of two of a value of at least 1, followed by its binary digits after the first."""
    power = value.bit_length() - 1
    return (power << digits) + ((value << digits >> power) & ((1 << digits) - 1))


view = memoryview
"""Returns what a column is read or written by; C has views of its own, which it makes of any array."""


def copy_all(columns: list[npt.NDArray[Any]], into: npt.NDArray[Any]) -> None:
    """Copy columns, one after another, into one of as many elements."""
    np.concatenate(columns, out=into)


def zeros(count: int) -> list[int]:
    """Return plain memory for 64-bit integers, all 0; C has to give it back."""
    return [0] * count


def give_back(cells: list[int]) -> None:
    """Give plain memory back, of which C keeps none."""


def as_signed(bits: int) -> int:
    """Return the signed integer of the same 64 bits."""
    return (bits ^ 1 << 63) - (1 << 63)
