"""Pseudonyms: keyed hashes in place of secrets that must not be stored or shown, such as cache salts."""

import os
from hashlib import blake2b

_DIGEST_BYTES = 8
_KEY = blake2b(
    os.environ.get("KVSTREAM_LABEL_KEY", "").encode(errors="surrogateescape") or os.urandom(32)
).digest()


def pseudonym(kind: str, value: bytes) -> str:
    """Return 16 hexadecimal digits that stand for a value of a kind.

    Equal values have equal pseudonyms as long as the process lives, and in every process where
    ``$KVSTREAM_LABEL_KEY`` is the same. Without the key nobody can find out whether a pseudonym stands for a
    value that he guesses.
    """
    return blake2b(value, digest_size=_DIGEST_BYTES, key=_KEY, person=kind.encode()).hexdigest()
