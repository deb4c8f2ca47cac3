"""Block ids: folded to 64 bits, salted by group, and hashed for sampling alike in every process."""

import re
import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kvstream._core.table import mix

U64 = npt.NDArray[np.uint64]

_HEX = re.compile("(?:0x)?[0-9a-fA-F]+")


def folded(block_hash: int | bytes | str) -> int:
    """Return a content hash as an unsigned 64-bit integer: the last eight bytes, big-endian, as vLLM does.

    Args:
        block_hash: The hash, signed or unsigned, as bytes or in hexadecimal digits.

    Raises:
        ValueError: If it is text that is no hexadecimal number.

    Examples:
        >>> hex(folded("0x00112233445566778899aabbccddeeff"))
        '0x8899aabbccddeeff'
    """
    if isinstance(block_hash, bytes):
        return int.from_bytes(block_hash[-8:], "big")
    if isinstance(block_hash, str):
        if not _HEX.fullmatch(block_hash):
            raise ValueError(f"{block_hash[:40]!r} is no hexadecimal number")
        return int(block_hash.removeprefix("0x")[-16:], 16)
    return block_hash & 2**64 - 1


@lru_cache(maxsize=1024)
def group_salt(group: int) -> int:
    """Return the value to XOR with the ids of a cache group: equal content of two groups has two ids."""
    return int(mix(np.array([group & 2**63 - 1]))[0])


@lru_cache(maxsize=1024)
def name_salt(name: str) -> int:
    """Return the value to XOR with the ids under a name: equal content under two names has two ids."""
    return int(mix(np.array([source_seed(name, "")]))[0])


def are_below(contents: npt.NDArray[np.int64], threshold: int) -> npt.NDArray[np.bool_]:
    """Return which content keys have a hash below a threshold of at most 2**64, bool of the same shape."""
    if threshold == 2**64:
        return np.ones(contents.shape, dtype=np.bool_)
    return mix(contents) < np.uint64(threshold)


def source_seed(source: str, tier: str) -> int:
    """Return a 63-bit number for a source and tier that is the same in every process."""
    name = f"{source}\0{tier}".encode("utf-8", "surrogatepass")
    return zlib.crc32(name) << 31 ^ zlib.crc32(name[::-1])


def below_rate(hashes: U64, rate: float) -> npt.NDArray[np.bool_]:
    """Return which hashes fall under a rate from 0 to 1, bool of the same shape."""
    if rate >= 1.0:
        return np.ones(hashes.shape, dtype=np.bool_)
    return hashes < np.uint64(int(rate * 2**64))


def generation_hash(seed: int, blocks: npt.NDArray[np.int64], birth_ns: npt.NDArray[np.int64]) -> U64:
    """Return a hash of each generation by source and tier, block and start, uint64 of shape (n,)."""
    return mix(mix(blocks ^ np.int64(seed)).view(np.int64) ^ birth_ns)
