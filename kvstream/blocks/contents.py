"""Contents: which content the blocks of a table hold, and how it comes and goes."""

import numpy as np

from kvstream.blocks.grouping import RUN_BITS, Generations, Grouped, Mask, with_room
from kvstream.blocks.hashing import are_below, are_hashes, mix
from kvstream.blocks.observations import ContentChanges
from kvstream.events.frame import I64, U16
from kvstream.events.types import Op

_FIRST_BITS, _OTHER_BITS = 2**16 - 1, 48  # of hashes
_KNOWN = 1  # is set in the first bits of every hash, as 0 stands for no key
_ODD = 0x1E3779B97F4A7C15  # which scatters slots over all bits, so that sums with times differ


class Contents:
    """Content is the block itself in content streams, its key in slot streams that have keys."""

    def __init__(self) -> None:
        self._keys: I64 | None = None  # by slot, 0 if unknown, once a slot stream has had keys
        # Of each key's hash: most keys are told from those below a threshold without hashing them again.
        self._first_bits = np.zeros(0, dtype=np.uint16)

    def keys(self, slots: int, given: bool) -> I64 | None:
        """The key of each of so many slots, or more; None where none was ever given, and none is now.

        What is changed in it is changed here.
        """
        return self._room_for(slots) if given or self._keys is not None else None

    def used(
        self,
        grouped: Grouped,
        slot: I64,
        told: Mask,
        ended: Generations,
        left: Generations,
        ids: I64 | None,
    ) -> I64:
        """What was allocated or accessed by some events, each at least once, int64.

        Blocks in content streams; in slot streams numbers that generations have to themselves. Without
        those of which the generation that each group finds is ``told`` of already, (g,).
        """
        content = slot[:0]
        if ids is not None:
            only_evicted = (grouped.heads == grouped.tails) & (grouped.op.take(grouped.heads) == Op.EVICT)
            content = ids.take(slot)
            known = are_hashes(content)
            content = content.compress(known & ~(only_evicted | told))
            if known.all():
                return content
        open_after = (~(left.carried & told.take(left.group_of))).nonzero()[0]
        untold = ~ended.carried | (ended.accesses_here > 0) & ~told.take(ended.group_of)
        within = untold.nonzero()[0]
        blocks = slot.take(np.concatenate([left.group_of.take(open_after), ended.group_of.take(within)]))
        numbers = np.concatenate([left.birth.take(open_after), ended.birth.take(within)])
        if ids is not None:
            blocks = ids.take(blocks)
            unknown = ~are_hashes(blocks)
            blocks, numbers = blocks.compress(unknown), numbers.compress(unknown)
        return np.concatenate([content, numbers + blocks * _ODD])

    def lookups(
        self, grouped: Grouped, slot: I64, begun: I64, keys: I64 | None, ids: I64 | None, below: int
    ) -> tuple[int, I64]:
        """Allocations and accesses of known content; ``changes`` of the same events comes after.

        Args:
            grouped: The events; all of them take effect.
            slot: Slot of each group, int64 (g,).
            begun: Rows that begin a generation.
            keys: Keys of the events by position, or None.
            ids: Content by slot in a content stream; None in a slot stream.
            below: Content is asked for only if its hash is below.

        Returns:
            How many there are, and the content asked for, in order of the events.
        """
        if ids is not None:
            content = ids.take(slot)
            groups = are_below(content, below) | ~are_hashes(content)
        elif keys is None and self._keys is None:
            return 0, slot[:0]
        else:
            groups = self._may_be_below(grouped, slot, begun, keys, below)
        # All other groups are of known content that is not asked for.
        rows = grouped.rows_of(groups.nonzero()[0])
        if ids is not None:
            content = ids.take(grouped.slot.take(rows))
        else:
            content = self._keys_of_rows(grouped, rows, keys)
        known = _are_known(content, ids)
        is_lookup = grouped.op.take(rows) != Op.EVICT
        unknown = int(np.count_nonzero(is_lookup & ~known))
        chosen = (is_lookup & known).nonzero()[0]
        chosen = chosen.compress(are_below(content.take(chosen), below))
        order = grouped.position.take(rows.take(chosen)).argsort()
        lookups = len(grouped.op) - int(np.count_nonzero(grouped.op == Op.EVICT)) - unknown
        return lookups, content.take(chosen.take(order))

    def _may_be_below(self, grouped: Grouped, slot: I64, begun: I64, keys: I64 | None, below: int) -> Mask:
        """Which groups may be of a key whose hash is below, or of none, bool (g,)."""
        self._first_bits = with_room(self._first_bits, int(slot[-1]) + 1)
        most = min(below >> _OTHER_BITS, _FIRST_BITS) | _KNOWN
        found: Mask = self._first_bits.take(slot) <= most
        given = _keys_at(grouped, begun, keys)
        bits = (mix(given) >> np.uint64(_OTHER_BITS)).astype(np.uint16)
        bits |= _KNOWN
        bits *= given != 0
        found[grouped.group_of.take(begun.compress(bits <= most))] = True
        self._first_bits[grouped.slot.take(begun)] = bits  # of several of a slot the last stays
        return found

    def _keys_of_rows(self, grouped: Grouped, rows: I64, keys: I64 | None) -> I64:
        """Key of the generation that is open just after some rows, all of some groups, (m,); 0 if unknown."""
        start, carried = grouped.begun_at(rows)
        slot = grouped.slot.take(rows)
        before = self._room_for(int(slot.max(initial=0)) + 1).take(slot)
        return np.where(carried, before, _keys_at(grouped, start, keys))

    def changes(
        self,
        grouped: Grouped,
        slot: I64,
        begun: I64,
        keys: I64 | None,
        ended: Generations,
        left: Generations,
        ids: I64 | None,
        of_row: U16 | None = None,
    ) -> ContentChanges | None:
        """What came and went with some events; a block replaced by the same content did neither.

        Args:
            grouped: The events; all of them take effect.
            slot: Slot of each group, int64 (g,).
            begun: Rows that begin a generation.
            keys: Keys of the events by position, or None.
            ended: The generations that they end.
            left: The generations that are open after them.
            ids: Content by slot in a content stream; None in a slot stream.
            of_row: Owner of the generation of each row, uint16 (n,), if there are labels.

        Returns:
            None if there is nothing, or content is not known.
        """
        gone = ended.rows
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
            replaced = (grouped.op.take(gone) == Op.ALLOC).nonzero()[0]
            anew = begun.searchsorted(gone.take(replaced))
            stays = (came.take(anew) == went.take(replaced)).nonzero()[0]
            came[anew.take(stays)] = went[replaced.take(stays)] = 0
        rows = np.concatenate([gone, begun])
        content = np.concatenate([went, came])
        begins = np.arange(len(rows)) >= len(gone)
        # By place in the frame; of one row, what goes goes before what comes.
        packed = (grouped.position.take(rows) * 2 + begins) << RUN_BITS + 1 | np.arange(len(rows))
        packed.sort()
        order = packed & (1 << RUN_BITS + 1) - 1
        order = order.compress(_are_known(content, ids).take(order))
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
        known = self._room_for(int(slot[-1]) + 1)
        went = known.take(slot.take(ended.group_of))
        own = (~ended.carried).nonzero()[0]
        went[own] = _keys_at(grouped, ended.start.take(own), keys)
        own = (~left.carried).nonzero()[0]
        known[slot.take(left.group_of.take(own))] = _keys_at(grouped, left.start.take(own), keys)
        return _keys_at(grouped, begun, keys), went

    def _room_for(self, slots: int) -> I64:
        self._keys = with_room(np.zeros(0, dtype=np.int64) if self._keys is None else self._keys, slots)
        return self._keys


def _are_known(content: I64, ids: I64 | None) -> Mask:
    """Which content says what it is, of the same shape: keys but 0, and ids that can be no slot."""
    # A number that could be a slot says nothing of content, whatever other ids are beside it.
    return content != 0 if ids is None else are_hashes(content)


def _keys_at(grouped: Grouped, rows: I64, keys: I64 | None) -> I64:
    """The keys that some rows give, 0 where there are none."""
    return np.zeros_like(rows) if keys is None else keys.take(grouped.position.take(rows))
