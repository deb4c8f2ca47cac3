"""Pseudonyms: keyed hashes in place of secrets that must not be stored or shown, such as cache salts."""

import os
from functools import cache
from typing import TYPE_CHECKING

from kvstream.text.digest import DIGITS

if TYPE_CHECKING:
    from hashlib import blake2b

_SECRET = os.environ.get("KVSTREAM_LABEL_KEY", "").encode(errors="surrogateescape") or os.urandom(32)


def pseudonym(kind: str, value: bytes) -> str:
    """Return 16 hexadecimal digits that stand for a value of a kind.

    Equal values have equal pseudonyms as long as the process lives, and in every process where
    ``$KVSTREAM_LABEL_KEY`` is the same. Without the key nobody can find out whether a pseudonym stands for a
    value that he guesses.
    """
    keyed = _keyed(kind).copy()
    keyed.update(value)
    return keyed.hexdigest()


@cache
def _keyed(kind: str) -> "blake2b":
    """Return the hash of no value of a kind, to go on from."""
    from hashlib import blake2b  # here, as for other digests

    return blake2b(digest_size=DIGITS // 2, key=blake2b(_SECRET).digest(), person=kind.encode())
