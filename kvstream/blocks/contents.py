"""Contents: which content the blocks of a table hold, and how it comes and goes."""

import numpy as np

from kvstream.blocks.grouping import Generations, Grouped, with_room
from kvstream.blocks.hashing import are_below, are_hashes
from kvstream.blocks.observations import ContentChanges
from kvstream.events.frame import I64
from kvstream.events.types import Op

_ODD = 0x1E3779B97F4A7C15  # which scatters slots over all bits, so that sums with times differ


class Contents:
    """Content is the block itself in content streams, its key in slot streams that have keys."""

    def __init__(self) -> None:
        self._keys: I64 | None = None  # by slot, 0 if unknown, once a slot stream has had keys

    def keys(self, slots: int, given: bool) -> I64 | None:
        """The key of each of so many slots, or more; None where none was ever given, and none is now.

        What is changed in it is changed here.
        """
        return self._room_for(slots) if given or self._keys is not None else None

    def used(
        self, grouped: Grouped, slot: I64, ended: Generations, left: Generations, ids: I64 | None
    ) -> I64:
        """What was allocated or accessed by some events, each at least once, int64.

        Blocks in content streams; in slot streams numbers that generations have to themselves.
        """
        content = slot[:0]
        if ids is not None:
            only_evicted = (grouped.heads == grouped.tails) & (grouped.op.take(grouped.heads) == Op.EVICT)
            content = ids.take(slot.compress(~only_evicted))
            known = are_hashes(content)
            if known.all():
                return content
            content = content.compress(known)
        within = (~ended.carried | (ended.accesses_here > 0)).nonzero()[0]
        blocks = slot.take(np.concatenate([left.group_of, ended.group_of.take(within)]))
        numbers = np.concatenate([left.birth, ended.birth.take(within)])
        if ids is not None:
            blocks = ids.take(blocks)
            unknown = ~are_hashes(blocks)
            blocks, numbers = blocks.compress(unknown), numbers.compress(unknown)
        return np.concatenate([content, numbers + blocks * _ODD])

    def lookups(
        self, grouped: Grouped, slot: I64, keys: I64 | None, ids: I64 | None, below: int
    ) -> tuple[int, I64]:
        """Allocations and accesses of known content; ``changes`` of the same events comes after.

        Args:
            grouped: The events; all of them take effect.
            slot: Slot of each group, int64 (g,).
            keys: Keys of the events by position, or None.
            ids: Content by slot in a content stream; None in a slot stream.
            below: Content is asked for only if its hash is below.

        Returns:
            How many there are, and the content asked for, in order of the events.
        """
        if ids is not None:
            return _group_lookups(grouped, ids.take(slot), below)
        if keys is None and self._keys is None:
            return 0, slot[:0]
        content = self._keys_of_rows(grouped, slot, keys)
        rows = ((grouped.op != Op.EVICT) & (content != 0)).nonzero()[0]
        chosen = rows.compress(are_below(content.take(rows), below))
        return len(rows), content.take(_by_position(grouped, chosen))

    def _keys_of_rows(self, grouped: Grouped, slot: I64, keys: I64 | None) -> I64:
        """Key of the generation that is open just after each row, (n,); 0 if it is not known."""
        start, carried = grouped.begun_at()
        before = self._room_for(int(slot.max()) + 1).take(slot).take(grouped.group_of)
        given = np.zeros(len(start), np.int64) if keys is None else keys.take(grouped.position)
        return np.where(carried, before, given.take(start))

    def changes(
        self,
        grouped: Grouped,
        slot: I64,
        keys: I64 | None,
        ended: Generations,
        left: Generations,
        ids: I64 | None,
        of_row: I64 | None = None,
    ) -> ContentChanges | None:
        """What came and went with some events; a block replaced by the same content did neither.

        Args:
            grouped: The events; all of them take effect.
            slot: Slot of each group, int64 (g,).
            keys: Keys of the events by position, or None.
            ended: The generations that they end.
            left: The generations that are open after them.
            ids: Content by slot in a content stream; None in a slot stream.
            of_row: Owner of the generation of each row, int64 (n,), if there are labels.

        Returns:
            None if there is nothing, or content is not known.
        """
        gone, begun = ended.rows, (grouped.op == Op.ALLOC).nonzero()[0]
        if ids is not None:
            replaced = np.zeros(len(grouped.op), dtype=np.bool_)
            replaced[gone] = True
            gone = gone.compress(grouped.op.take(gone) == Op.EVICT)
            begun = begun.compress(~replaced.take(begun))
            came, went = ids.take(grouped.slot.take(begun)), ids.take(grouped.slot.take(gone))
        elif keys is None and self._keys is None:
            return None
        else:
            came, went = self._keys_of(grouped, slot, keys, begun, ended, left)
            before = np.zeros(len(grouped.op), dtype=np.int64)
            before[gone] = went
            stays = before.take(begun) == came
            again = np.zeros(len(grouped.op), dtype=np.bool_)
            again[begun.compress(stays)] = True
            went, came = np.where(again.take(gone), 0, went), np.where(stays, 0, came)
        rows = np.concatenate([gone, begun])
        content = np.concatenate([went, came])
        begins = np.repeat([False, True], [len(gone), len(begun)])
        # By place in the frame; of one row, what goes goes before what comes.
        # 16 bits hold that for a run, and are sorted at a sixth of the cost.
        order = np.argsort((grouped.position.take(rows) * 2 + begins).astype(np.uint16), kind="stable")
        # A number that could be a slot says nothing of content, whatever other ids are beside it.
        known = content != 0 if ids is None else are_hashes(content)
        order = order.compress(known.take(order))
        if not len(order):
            return None
        rows = rows.take(order)
        return ContentChanges(
            content.take(order),
            grouped.t.take(rows),
            begins.take(order),
            held_once=ids is not None,
            owners=None if of_row is None else of_row.take(rows),
        )

    def _keys_of(
        self, grouped: Grouped, slot: I64, keys: I64 | None, begun: I64, ended: Generations, left: Generations
    ) -> tuple[I64, I64]:
        """Keys of the generations begun and ended, (b,) and (m,); remembers those of the ones left open."""
        known = self._room_for(int(slot.max()) + 1)
        given = np.zeros(len(grouped.op), dtype=np.int64) if keys is None else keys.take(grouped.position)
        before = known.take(slot)
        went = np.where(ended.carried, before.take(ended.group_of), given.take(ended.start))
        after = np.where(left.carried, before.take(left.group_of), given.take(left.start))
        known[slot.take(left.group_of)] = after
        return given.take(begun), went

    def _room_for(self, slots: int) -> I64:
        self._keys = with_room(np.zeros(0, dtype=np.int64) if self._keys is None else self._keys, slots)
        return self._keys


def _group_lookups(grouped: Grouped, content: I64, below: int) -> tuple[int, I64]:
    """Lookups where all events of a group are of one content, (g,): each group is hashed once."""
    known = are_hashes(content)
    evictions = grouped.op == Op.EVICT
    count = len(evictions) - int(np.count_nonzero(evictions))
    if not known.all():
        unknown = ~known.take(grouped.group_of)
        count -= int(np.count_nonzero(unknown & ~evictions))
    chosen = (are_below(content, below) & known).nonzero()[0]
    starts, lengths = grouped.heads.take(chosen), (grouped.tails - grouped.heads).take(chosen) + 1
    # Every row of the chosen groups: each start repeated, and then counted on from.
    before = lengths.cumsum() - lengths
    rows = (starts - before).repeat(lengths) + np.arange(int(lengths.sum()))
    rows = rows.compress(~evictions.take(rows))
    return count, content.take(grouped.group_of.take(_by_position(grouped, rows)))


def _by_position(grouped: Grouped, rows: I64) -> I64:
    """Rows in the order of their events."""
    return rows.take(grouped.position.take(rows).argsort())
