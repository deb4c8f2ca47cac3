"""LabelSets: the label sets that the blocks of a table have, by number."""

from collections.abc import Sequence

import numpy as np
from msgspec.structs import astuple, replace

from kvstream.errors import MalformedInputError
from kvstream.events.frame import U16, EventFrame, counted_labels
from kvstream.events.types import Labels, checked_labels

OTHERS = 1
_OTHER = "other"
OTHER = Labels(*[_OTHER] * len(Labels.__struct_fields__))


class LabelSets:
    """Numbers label sets.

    There can be any number of sessions and salts: from half of the limit on, new ones are ``other``, so that
    there is room for the other labels.

    Args:
        limit: Label sets that are followed; any more together are ``other``, for ever.

    Attributes:
        labels: The labels of each label set by number, none for the first.
        salts: A number for the salt of each label set, 0 where it has none or is among the others, uint16;
            None until the first salt.
    """

    def __init__(self, limit: int) -> None:
        self.labels: list[Labels | None] = [None, OTHER]
        self._limit = limit
        self._numbers: dict[Labels, int] = {}
        self._last: tuple[tuple[Labels, ...], U16] = (), np.zeros(1, dtype=np.uint16)
        self.salts: U16 | None = None
        self._salt_numbers: dict[str, int] = {}

    @property
    def known(self) -> bool:
        """Return whether anything has ever had labels."""
        return len(self.labels) > OTHERS + 1

    @property
    def most(self) -> int:
        """Return how many label sets there can be, those of no labels and of ``other`` included."""
        return max(self._limit + OTHERS + 1, len(self.labels))

    def numbers(self, frame: EventFrame) -> U16:
        """Return the number of the label set that each place of a frame's ``label_of`` names, uint16.

        Labels that count for nothing (``counted_labels``) are left at 0.
        """
        known, numbers = self._last
        if frame.labels == known:
            return numbers
        places = [0] * (len(frame.labels) + 1)
        for place in counted_labels(frame):
            places[place] = self._number(frame.labels[place - 1])
        numbers = np.array(places, dtype=np.uint16)
        if len(frame.labels) <= min(len(frame), self._limit):  # none is left out, and few are held
            self._last = frame.labels, numbers
        return numbers

    def save(self) -> list[list[str | None]]:
        """Return the labels of each label set that was given a number, in order of numbers."""
        return [list(astuple(labels)) for labels in self._numbers]

    def restore(self, saved: Sequence[Sequence[str | None]]) -> None:
        """Restore the saved numbers; all of them are kept, even beyond the present limit."""
        for values in saved:
            self._add(Labels(*values))

    def _number(self, labels: Labels) -> int:
        number = self._numbers.get(labels)
        if number is not None:
            return number
        if len(self._numbers) >= self._limit // 2 and (coarser := _without_requests(labels)) != labels:
            return self._number(coarser)
        if len(self._numbers) >= self._limit or not _are_names(labels):
            return OTHERS
        return self._add(labels)

    def _add(self, labels: Labels) -> int:
        number = self._numbers[labels] = len(self.labels)
        self.labels.append(labels)
        salt = 0
        if labels.salt is not None and labels.salt != _OTHER:
            salt = self._salt_numbers.setdefault(labels.salt, len(self._salt_numbers) + 1)
        if salt or self.salts is not None:
            before = np.zeros(number, dtype=np.uint16) if self.salts is None else self.salts
            self.salts = np.append(before, np.uint16(salt))
        return number


def _without_requests(labels: Labels) -> Labels:
    """Return labels with ``other`` for a session and a salt."""
    session = None if labels.session is None else _OTHER
    return replace(labels, session=session, salt=None if labels.salt is None else _OTHER)


def _are_names(labels: Labels) -> bool:
    """Return whether each label is a name, as frames that were made by hand can hold anything."""
    try:
        checked_labels(labels)
    except MalformedInputError:
        return False
    return True
