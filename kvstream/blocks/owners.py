"""Owners: whose the blocks of a table are, by the labels of their allocations."""

import numpy as np

from kvstream.blocks.grouping import Generations, Grouped, Mask, with_room
from kvstream.blocks.observations import Observations, Owned
from kvstream.events.frame import I64, EventFrame
from kvstream.events.types import Labels, Op

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
        self._of_slot = np.zeros(0, dtype=np.int64)

    @property
    def known(self) -> bool:
        """Whether anything has ever had labels."""
        return len(self.labels) > OTHERS + 1

    def numbers(self, frame: EventFrame) -> I64:
        """The number of the owner that each event of a frame gives its block, int64 (n,)."""
        if frame.label_of is None:
            return np.zeros(len(frame), dtype=np.int64)
        return np.array([NOBODY, *map(self._number, frame.labels)]).take(frame.label_of)

    def _number(self, labels: Labels) -> int:
        number = self._numbers.get(labels)
        if number is None:
            if len(self._numbers) >= self._most:
                return OTHERS
            number = self._numbers[labels] = len(self.labels)
            self.labels.append(labels)
        return number

    def apply(
        self, grouped: Grouped, slot: I64, given: I64, ended: Generations, left: Generations
    ) -> tuple[I64, I64]:
        """Takes in events.

        Args:
            grouped: The events; all of them take effect.
            slot: Slot of each group, int64 (g,).
            given: Number of the owner that each event of the frame names, by position.
            ended: The generations that they end.
            left: The generations that are open after them.

        Returns:
            The owner of the generation that each row begins or belongs to, int64 (n,), and of each of the
            ended ones, (m,).
        """
        before = self.by_slot(int(slot.max()) + 1).take(slot)
        # The owner changes where a generation begins, and from block to block.
        is_mark = grouped.op == Op.ALLOC
        is_mark[grouped.heads] = True
        marks = is_mark.nonzero()[0]
        begins = grouped.op.take(marks) == Op.ALLOC
        owner = np.where(
            begins,
            given.take(grouped.position.take(marks)),
            before.take(grouped.group_of.take(marks)),
        )
        of_row = owner.take(is_mark.cumsum() - 1)
        went = of_row.take(ended.rows)
        replaced = (grouped.op.take(ended.rows) == Op.ALLOC).nonzero()[0]
        if len(replaced):
            row, group = ended.rows.take(replaced), ended.group_of.take(replaced)
            is_head = row == grouped.heads.take(group)
            went[replaced] = np.where(is_head, before.take(group), of_row.take(row - 1))
        self._of_slot[slot.take(left.group_of)] = of_row.take(left.rows)
        return of_row, went

    def of_slots(self, slots: I64) -> I64:
        """The owners of some live slots."""
        return self.by_slot(int(slots.max()) + 1).take(slots) if len(slots) else slots

    def by_slot(self, slots: int) -> I64:
        """The owner of each of so many slots, or more; what is changed in it is changed here."""
        self._of_slot = with_room(self._of_slot, slots)
        return self._of_slot


def owned_of_run(
    grouped: Grouped,
    ended: Generations,
    of_row: I64,
    went: I64,
    reused: tuple[Mask, Mask],
    observed: Mask | None,
    seen: Observations,
) -> Owned:
    """What was just added to ``seen``, by owner."""
    begins = grouped.op == Op.ALLOC
    nothing = of_row[:0]
    lives = (nothing, nothing, nothing, nothing)
    if len(ended.rows):
        of_observed = went if observed is None else went.compress(observed)
        lives = (of_observed, seen.lifetimes[-1], seen.idles[-1], seen.access_counts[-1])
    again, first = reused
    return Owned(
        of_row.compress(begins),
        grouped.t.compress(begins),
        of_row.compress(grouped.op == Op.ACCESS),
        went,
        grouped.t.take(ended.rows),
        False,
        (of_row.compress(again), seen.reuse_gaps[-1]),
        (of_row.compress(first), seen.first_reuses[-1]),
        lives,
    )


def owned_from_now_on(births: I64) -> Owned:
    """Nobody's blocks, born at some times."""
    nothing = births[:0]
    none = (nothing, nothing)
    return Owned(np.zeros_like(births), births, *none, nothing, False, none, none, (*none, *none))


def owned_by_cleared(of_slot: I64, ts: int) -> Owned:
    """What a clear ends, by owner."""
    nothing = of_slot[:0]
    none = (nothing, nothing)
    return Owned(
        nothing,
        nothing,
        nothing,
        of_slot,
        np.full(len(of_slot), ts),
        True,
        none,
        none,
        (*none, *none),
    )
