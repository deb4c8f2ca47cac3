"""Marks: moments that people note, such as a deploy, so that charts show what changed then."""

import math
import os
from collections.abc import Iterable
from typing import Any

import msgspec

from kvstream.errors import ConfigError

MAX_MARKS = 1000
"""Marks that are kept; older ones go first."""

_MOST_CHARACTERS = 256
_LAST_SECOND = 2.0**33


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A moment that somebody noted, such as a deploy.

    Attributes:
        text: What happened, in 1 to 256 characters.
        timestamp: When, in seconds since the Unix epoch, of event time.
        source: Pattern for the sources that it concerns, as in a shell.
        id: Id of the mark, made when it is added.

    Raises:
        ConfigError: If a text is empty or too long, or the time is none.
    """

    text: str
    timestamp: float
    source: str = "*"
    id: str = ""

    def __post_init__(self) -> None:
        for name in ("text", "source"):
            if not 0 < len(getattr(self, name)) <= _MOST_CHARACTERS:
                raise ConfigError(f"mark: {name} has 1 to {_MOST_CHARACTERS} characters")
        if not (math.isfinite(self.timestamp) and 0 <= self.timestamp <= _LAST_SECOND):
            raise ConfigError("mark: timestamp is no time in seconds since 1970")


class Marks:
    """The marks of a stream, by time."""

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    def add(self, mark: Mark) -> Mark:
        """Keep a mark and return it with its id; beyond the limit the oldest is dropped."""
        mark = msgspec.structs.replace(mark, id=mark.id or os.urandom(8).hex())
        self._marks = sorted([*self._marks, mark], key=lambda each: each.timestamp)[-MAX_MARKS:]
        return mark

    def remove(self, mark_id: str) -> bool:
        """Remove a mark; return whether it was there."""
        before = len(self._marks)
        self._marks = [mark for mark in self._marks if mark.id != mark_id]
        return len(self._marks) < before

    def all(self) -> list[Mark]:
        """Return the marks, the oldest first."""
        return list(self._marks)

    def save(self) -> list[dict[str, Any]]:
        """Return its state for ``restore``, as plain values."""
        return [msgspec.structs.asdict(mark) for mark in self._marks]

    def restore(self, saved: Iterable[dict[str, Any]]) -> None:
        """Go on from what ``save`` returned.

        Raises:
            msgspec.ValidationError: If it is something else.
        """
        self._marks = msgspec.convert(list(saved), list[Mark])[-MAX_MARKS:]
