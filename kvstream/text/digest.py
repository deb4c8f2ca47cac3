"""Digests of 16 hexadecimal digits, which stand for what is too long or has too many parts for a name."""

DIGITS = 16
"""Hexadecimal digits of a digest."""


def digest(data: bytes) -> str:
    """Return the digest of some bytes, the same in every process."""
    import hashlib  # here, as loading OpenSSL is a good part of what importing kvstream would cost

    return hashlib.blake2b(data, digest_size=DIGITS // 2).hexdigest()
