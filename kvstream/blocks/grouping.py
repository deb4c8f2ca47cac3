"""A frame's events grouped by slot, and the generations that they end and leave open.

Every array of rows is sorted by slot and, within a slot, by the order of the frame. Indices are taken
with ``take`` and ``compress``, which cost a third of what square brackets do, and methods are preferred
to numpy's functions of the same name, which cost small frames several microseconds each.
"""

from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64, U8, U16
from kvstream.events.types import Op

Mask = npt.NDArray[np.bool_]
Column = TypeVar("Column", I64, U16)

RUN_BITS = 15
RUN_EVENTS = 1 << RUN_BITS
"""Events grouped at once: of fewer, each costs more; the columns of more would leave a core's cache."""

_OP_BITS = 2
_OP = (1 << _OP_BITS) - 1
PACKED_STORE = 3
"""``Op.STORE`` among the events of a group, where a clear never is."""
_POSITION = RUN_EVENTS - 1


class Grouped(msgspec.Struct, frozen=True, eq=False):
    """Events of n rows in g groups of one slot each.

    Attributes:
        slot: Slot of each row, int64 (n,).
        op: Operation, uint8 (n,).
        t: Time, ns, int64 (n,).
        position: Place in the frame, int64 (n,).
        heads: Row of each group's first event, int64 (g,).
        tails: Row of each group's last event, int64 (g,).
        group_of: Group of each row, int64 (n,).
    """

    slot: I64
    op: U8
    t: I64
    position: I64
    heads: I64
    tails: I64
    group_of: I64

    def begun_at(self, rows: I64) -> tuple[I64, Mask]:
        """Where the generation that is open just after some rows began.

        Args:
            rows: All rows of some groups, ascending, int64 (m,).

        Returns:
            The row, (m,); and whether it began before the first of the group instead, (m,).
        """
        start = np.maximum.accumulate(np.where(self.op.take(rows) == Op.ALLOC, rows, -1))
        return start, start < self.heads.take(self.group_of.take(rows))

    def carried_on(self, before: Column, begun: I64, given: Column) -> Column:
        """What holds of the generation that is open just after each row, (n,).

        Args:
            before: What holds of the one that the group's first row finds, by row, (n,); changed in place.
            begun: Rows that begin a generation, int64 (b,).
            given: What holds of each of those, (b,).
        """
        # A generation's rows are those from its beginning to the next, or to the end of its group.
        last = self.tails.take(self.group_of.take(begun))
        np.minimum(last[:-1], begun[1:] - 1, out=last[:-1])
        lengths = last - begun + 1
        before[ranges(begun, lengths)] = given.repeat(lengths)
        return before

    def without_effect(self, live: Mask) -> Mask | None:
        """Which rows speak of a block that is not live at that moment; None if there are none.

        Args:
            live: Whether each group's block was live before the first row, (g,).
        """
        starts_dead = ~live & (self.op.take(self.heads) != Op.ALLOC)
        evicts = (self.op[:-1] == Op.EVICT).nonzero()[0]
        after = evicts + 1
        follows_evict = (self.op.take(after) != Op.ALLOC) & (self.slot.take(after) == self.slot.take(evicts))
        if not starts_dead.any() and not follows_evict.any():
            return None
        dead: Mask = ~self._live_before(live) & (self.op != Op.ALLOC)
        return dead

    def resolved(self, live: Mask) -> "Grouped":
        """Each store as what it is at that moment: an access of a live block, or else an allocation."""
        stores = (self.op == PACKED_STORE).nonzero()[0]
        op = self.op.copy()
        op[stores] = np.where(self._live_before(live).take(stores), Op.ACCESS, Op.ALLOC)
        return msgspec.structs.replace(self, op=op)

    def _live_before(self, live: Mask) -> Mask:
        """Whether the block is live just before each row."""
        # It is after an allocation or store, not after an eviction; before any of them, as ``live`` says.
        is_bound = self.op != Op.ACCESS
        bounds = is_bound.nonzero()[0]
        before = is_bound.cumsum() - is_bound - 1
        bound = np.append(bounds, -1).take(before)  # none: -1, before any head
        in_group = bound >= self.heads.take(self.group_of)
        return np.where(in_group, self.op.take(bound) != Op.EVICT, live.take(self.group_of))

    def keep(self, rows: Mask) -> "Grouped":
        """Only the rows of a mask."""
        return _grouped(*(column.compress(rows) for column in (self.slot, self.op, self.t, self.position)))

    def rows_of(self, groups: I64) -> I64:
        """All rows of some groups, in order of the groups."""
        starts = self.heads.take(groups)
        return ranges(starts, self.tails.take(groups) - starts + 1)


def ranges(starts: I64, lengths: I64) -> I64:
    """Numbers counted on from each start, so many of them, one range after the other."""
    numbers: I64 = (starts - lengths.cumsum() + lengths).repeat(lengths)
    numbers += np.arange(len(numbers))
    return numbers


def group(slots: I64, ops: U8, ts: I64) -> Grouped:
    """Groups events by slot.

    Args:
        slots: Slot of each event, at most 2**46, int64 (n,), 1 ≤ n ≤ ``RUN_EVENTS``.
        ops: Operations, none of them a clear, stores as ``PACKED_STORE``, uint8 (n,).
        ts: Times, ns, int64 (n,).
    """
    # Sorting slot, position and operation packed into one integer is a stable sort by slot, at SIMD speed.
    packed = (slots << RUN_BITS | np.arange(len(slots))) << _OP_BITS | ops
    packed.sort()
    position = packed >> _OP_BITS & _POSITION
    return _grouped(
        packed >> RUN_BITS + _OP_BITS, (packed & _OP).astype(np.uint8), ts.take(position), position
    )


def _grouped(slot: I64, op: U8, t: I64, position: I64) -> Grouped:
    first = np.empty(len(slot), dtype=np.bool_)
    first[:1] = True
    np.not_equal(slot[1:], slot[:-1], out=first[1:])
    heads = first.nonzero()[0]
    tails = np.empty_like(heads)
    tails[-1:] = len(slot) - 1
    np.subtract(heads[1:], 1, out=tails[:-1])
    return Grouped(slot, op, t, position, heads, tails, first.cumsum() - 1)


class Generations(msgspec.Struct, frozen=True, eq=False):
    """Of m generations: each as it is at one row, its end or the last row of its group.

    Attributes:
        rows: That row, int64 (m,).
        group_of: Its group, int64 (m,).
        start: Row of the allocation; the group's head if that was in an earlier frame.
        carried: Whether it was in an earlier frame, bool (m,).
        birth: When it began, ns.
        accesses: Accesses up to the row.
        accesses_here: Those of them in this frame.
    """

    rows: I64
    group_of: I64
    start: I64
    carried: Mask
    birth: I64
    accesses: I64
    accesses_here: I64

    def take(self, which: Mask) -> "Generations":
        """Only those of a mask."""
        return Generations(
            self.rows.compress(which),
            self.group_of.compress(which),
            self.start.compress(which),
            self.carried.compress(which),
            self.birth.compress(which),
            self.accesses.compress(which),
            self.accesses_here.compress(which),
        )


def generations(grouped: Grouped, birth: I64, count: I64) -> tuple[Generations, Generations]:
    """The generations that end within a frame, and those that are open after it.

    Args:
        grouped: The events; all of them take effect.
        birth: The table's births, by group, int64 (g,).
        count: The table's access counts by group, -1 where the block is not live, int64 (g,).
    """
    op, heads = grouped.op, grouped.heads
    is_bound = op != Op.ACCESS
    bounds = is_bound.nonzero()[0]
    # The bound before each bound, and the last bound of each group; -1 where the group has none.
    before = np.empty_like(bounds)
    before[:1], before[1:] = -1, bounds[:-1]
    group_of = grouped.group_of.take(bounds)
    before[before < heads.take(group_of)] = -1
    ends_one = (op.take(before) == Op.ALLOC) & (before >= 0) | (before < 0) & (count.take(group_of) >= 0)
    ended = _generations(
        grouped,
        birth,
        count,
        bounds.compress(ends_one),
        group_of.compress(ends_one),
        before.compress(ends_one),
    )
    last = bounds.take(is_bound.cumsum().take(grouped.tails) - 1, mode="wrap") if len(bounds) else heads - 1
    last[(last < heads) | (last > grouped.tails)] = -1
    open_after = (op.take(grouped.tails) != Op.EVICT).nonzero()[0]
    tails = grouped.tails.take(open_after)
    left = _generations(grouped, birth, count, tails + 1, open_after, last.take(open_after))
    return ended, msgspec.structs.replace(left, rows=tails)


def _generations(
    grouped: Grouped, birth: I64, count: I64, ends: I64, group_of: I64, allocation: I64
) -> Generations:
    """Generations of which no access is at ``ends`` or later, begun at ``allocation`` or before (-1)."""
    carried = allocation < 0
    start = np.where(carried, grouped.heads.take(group_of), allocation)
    here = ends - start - ~carried
    return Generations(
        ends,
        group_of,
        start,
        carried,
        np.where(carried, birth.take(group_of), grouped.t.take(start)),
        np.where(carried, count.take(group_of) + here, here),
        here,
    )


def with_room(column: Column, slots: int) -> Column:
    """A column by slot with room for so many: itself, or wider, with zeros behind."""
    if len(column) >= slots:
        return column
    wider = np.zeros(1 << (slots - 1).bit_length(), dtype=column.dtype)
    wider[: len(column)] = column
    return wider
