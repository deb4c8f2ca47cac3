"""What ``native.pxd`` has for the compiled core, for the interpreted one."""

BIRTH, COUNT, TIMES = 0, 1, 2  # columns of a row of the block table: birth, access count, first of the times
LINE = 8  # 64-bit integers in a line of memory


def leading_digits(value: int, digits: int) -> int:
    """Return the power of two of a value of at least 1, followed by its binary digits after the first."""
    power = value.bit_length() - 1
    return (power << digits) + ((value << digits >> power) & ((1 << digits) - 1))


def zeros(count: int) -> list[int]:
    """Return plain memory for 64-bit integers, all 0; C has to give it back."""
    return [0] * count


def give_back(cells: list[int]) -> None:
    """Give plain memory back, of which C keeps none."""


def as_signed(bits: int) -> int:
    """Return the signed integer of the same 64 bits."""
    return (bits ^ 1 << 63) - (1 << 63)
