"""A frame's events grouped by slot: which generation each belongs to, and since when.

Every array is sorted by slot and, within a slot, by the order of the frame.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.events.frame import I64, U8
from kvstream.events.types import Op

Mask = npt.NDArray[np.bool_]

POSITION_BITS = 20
_POSITION = (1 << POSITION_BITS) - 1


class Grouped(msgspec.Struct, frozen=True, eq=False):
    """Events of n rows that change something, in g groups of one slot each.

    Attributes:
        slot: Slot of each row, int64 (n,).
        op: Operation, uint8 (n,).
        t: Time, ns, int64 (n,).
        position: Place in the frame, int64 (n,).
        live: Whether the block was live just before the row, bool (n,).
        heads: Row of each group's first event, int64 (g,).
    """

    slot: I64
    op: U8
    t: I64
    position: I64
    live: Mask
    heads: I64


def group(slots: I64, ops: U8, ts: I64, live: Mask) -> tuple[Grouped, U8]:
    """Groups events by slot and sets apart those of blocks that are not live at that moment.

    Args:
        slots: Slot of each event, int64 (n,), n ≤ 2**20.
        ops: Operations, none of them a clear, uint8 (n,).
        ts: Times, ns, int64 (n,).
        live: The table's liveness by slot before the first event.

    Returns:
        The effective events, and the operations of the others.
    """
    n = len(slots)
    # Sorting slot and position packed into one integer is a stable sort by slot, at SIMD speed.
    packed = slots << POSITION_BITS | np.arange(n)
    packed.sort()
    position, slot = packed & _POSITION, packed >> POSITION_BITS
    op, t = ops[position], ts[position]
    heads = _heads(slot)
    # Live: after an allocation; not after an eviction; before the first of either, as the table says.
    head_of = np.zeros(n, dtype=np.int64)
    head_of[heads] = heads
    head_of = np.maximum.accumulate(head_of)
    last_bound = np.maximum.accumulate(np.where(op != Op.ACCESS, np.arange(n), -1))
    bound = np.append(-1, last_bound[:-1])
    alive: Mask = np.where(bound < head_of, live[slot], op[bound] == Op.ALLOC)
    effective = alive | (op == Op.ALLOC)
    if effective.all():
        return Grouped(slot, op, t, position, alive, heads), op[:0]
    without_effect = op[~effective]
    slot, op, t, position, alive = (c[effective] for c in (slot, op, t, position, alive))
    return Grouped(slot, op, t, position, alive, _heads(slot)), without_effect


def _heads(slot: I64) -> I64:
    first = np.ones(len(slot), dtype=np.bool_)
    np.not_equal(slot[1:], slot[:-1], out=first[1:])
    return np.flatnonzero(first)


class GenerationView(msgspec.Struct, frozen=True, eq=False):
    """Of the generation that is open just after each row asked for: (m,) each.

    Attributes:
        birth: When it began, ns.
        accesses: Accesses so far.
        accesses_here: Those of them in this frame.
        start: Row of its allocation; before the group's head if that was in an earlier frame.
        carried: Whether it began in an earlier frame.
    """

    birth: I64
    accesses: I64
    accesses_here: I64
    start: I64
    carried: Mask

    def take(self, which: Mask) -> "GenerationView":
        """Only the rows of a mask."""
        return GenerationView(
            self.birth[which],
            self.accesses[which],
            self.accesses_here[which],
            self.start[which],
            self.carried[which],
        )


class Generations:
    """Finds the generation of any row of a ``Grouped``.

    Args:
        grouped: The events.
        birth: The table's births, by group, int64 (g,).
        count: The table's access counts, by group, 0 where the block was not live, int64 (g,).
    """

    def __init__(self, grouped: Grouped, birth: I64, count: I64) -> None:
        self._heads, self._t = grouped.heads, grouped.t
        self._birth, self._count = birth, count
        is_access = grouped.op == Op.ACCESS
        n = len(grouped.op)
        self.is_access: Mask = is_access
        self.accesses: I64 = np.cumsum(is_access)
        self._accesses_before = self.accesses[grouped.heads] - is_access[grouped.heads]
        self._start = np.maximum.accumulate(np.where(grouped.op == Op.ALLOC, np.arange(n), -1))
        steps = np.zeros(n, dtype=np.int64)
        steps[grouped.heads[1:]] = 1
        self.group_of: I64 = np.cumsum(steps)

    def after(self, rows: I64) -> GenerationView:
        """The generations open just after ``rows``."""
        group_of, start = self.group_of[rows], self._start[rows]
        carried = start < self._heads[group_of]
        birth = np.where(carried, self._birth[group_of], self._t[start])
        since = np.where(carried, self._accesses_before[group_of], self.accesses[start])
        here = self.accesses[rows] - since
        return GenerationView(birth, here + np.where(carried, self._count[group_of], 0), here, start, carried)

    def before(self, rows: I64) -> GenerationView:
        """The generations open just before ``rows``."""
        group_of = self.group_of[rows]
        at_head = self._heads[group_of] == rows
        view = self.after(np.where(at_head, rows, rows - 1))
        return GenerationView(
            np.where(at_head, self._birth[group_of], view.birth),
            np.where(at_head, self._count[group_of], view.accesses),
            np.where(at_head, 0, view.accesses_here),
            view.start,
            view.carried | at_head,
        )
