"""Owners: whose the blocks of a table are, by the labels of their allocations."""

import numpy as np

from kvstream.blocks.grouping import Generations, Grouped, Mask, with_room
from kvstream.blocks.observations import Owned
from kvstream.errors import MalformedInputError
from kvstream.events.frame import I64, U16, EventFrame, counted_labels
from kvstream.events.types import Labels, Op, checked_labels

NOBODY, OTHERS = 0, 1
OTHER = Labels(*["other"] * len(Labels.__struct_fields__))


class Owners:
    """Numbers owners, and knows whose each slot is.

    Args:
        most: Owners told apart; any more together are ``other``, for ever.

    Attributes:
        labels: The labels of each owner by number, none for the first.
    """

    def __init__(self, most: int) -> None:
        self.labels: list[Labels | None] = [None, OTHER]
        self._most = most
        self._numbers: dict[Labels, int] = {}
        self._of_slot = np.zeros(0, dtype=np.uint16)

    @property
    def known(self) -> bool:
        """Whether anything has ever had labels."""
        return len(self.labels) > OTHERS + 1

    def numbers(self, frame: EventFrame) -> U16:
        """The number of the owner that each place of a frame's ``label_of`` names, uint16.

        Labels that count for nothing (``counted_labels``) are left at ``NOBODY``.
        """
        numbers = np.zeros(len(frame.labels) + 1, dtype=np.uint16)
        for place in counted_labels(frame):
            numbers[place] = self._number(frame.labels[place - 1])
        return numbers

    def _number(self, labels: Labels) -> int:
        number = self._numbers.get(labels)
        if number is None:
            if len(self._numbers) >= self._most or not _are_names(labels):
                return OTHERS
            number = self._numbers[labels] = len(self.labels)
            self.labels.append(labels)
        return number

    def apply(
        self,
        grouped: Grouped,
        slot: I64,
        begun: I64,
        given: U16,
        ended: Generations,
        left: Generations,
    ) -> tuple[U16, U16]:
        """Takes in events.

        Args:
            grouped: The events; all of them take effect.
            slot: Slot of each group, int64 (g,).
            begun: Rows that begin a generation, (b,).
            given: Number of the owner of each of those, (b,).
            ended: The generations that they end.
            left: The generations that are open after them.

        Returns:
            The owner of the generation that each row begins or belongs to, uint16 (n,), and of each of the
            ended ones, (m,).
        """
        of_slot = self.by_slot(int(slot[-1]) + 1)
        of_row = grouped.carried_on(of_slot.take(grouped.slot), begun, given)
        went = of_row.take(ended.rows)
        replaced = (grouped.op.take(ended.rows) == Op.ALLOC).nonzero()[0]
        if len(replaced):
            row = ended.rows.take(replaced)
            is_head = row == grouped.heads.take(ended.group_of.take(replaced))
            went[replaced] = np.where(is_head, of_slot.take(grouped.slot.take(row)), of_row.take(row - 1))
        new = (~left.carried).nonzero()[0]
        of_slot[slot.take(left.group_of.take(new))] = of_row.take(left.rows.take(new))
        return of_row, went

    def of_slots(self, slots: I64) -> U16:
        """The owners of some live slots."""
        return self.by_slot(int(slots.max(initial=-1)) + 1).take(slots)

    def by_slot(self, slots: int) -> U16:
        """The owner of each of so many slots, or more; what is changed in it is changed here."""
        self._of_slot = with_room(self._of_slot, slots)
        return self._of_slot


def _are_names(labels: Labels) -> bool:
    """Whether each label is a name; in frames that were neither recorded nor decoded it can be anything."""
    try:
        checked_labels(labels)
    except MalformedInputError:
        return False
    return True


def owned_of_run(
    grouped: Grouped,
    begun: I64,
    ended: Generations,
    of_row: U16,
    went: U16,
    reused: tuple[I64, I64],
    observed: Mask | None,
) -> Owned:
    """What some events did, by owner; ``reused`` and ``observed`` are what is observed of them."""
    again, first = reused
    unobserved = of_row[:0]
    if observed is not None:
        others = grouped.op == Op.ACCESS
        others[again] = others[first] = False
        unobserved = of_row.compress(others)
    return Owned(
        begun=of_row.take(begun),
        begun_ts=grouped.t.take(begun),
        ended=went,
        ended_ts=grouped.t.take(ended.rows),
        unobserved=unobserved,
        reuse_gaps=of_row.take(again),
        first_reuses=of_row.take(first),
        lives=went if observed is None else went.compress(observed),
    )


def owned_from_now_on(births: I64) -> Owned:
    """Nobody's blocks, born at some times."""
    return Owned(begun=np.zeros(len(births), dtype=np.uint16), begun_ts=births)


def owned_by_cleared(of_slot: U16, ts: int) -> Owned:
    """What a clear ends, by owner."""
    return Owned(ended=of_slot, ended_ts=np.full(len(of_slot), ts), cleared=True)
