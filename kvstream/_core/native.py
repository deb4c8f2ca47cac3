"""What ``native.pxd`` has for the compiled core, for the interpreted one."""

bit_length = int.bit_length


def as_signed(bits: int) -> int:
    """Return the signed integer of the same 64 bits."""
    return (bits ^ 1 << 63) - (1 << 63)
