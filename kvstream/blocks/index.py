"""BlockIndex: where in the table each 64-bit content hash lives."""

import math
import os

import numpy as np
import numpy.typing as npt

from kvstream.compiled import compiled_loop

I64 = npt.NDArray[np.int64]
EMPTY, REMOVED = -1, -2
"""What a place holds that holds no slot: never one, and one no more."""
_SMALLEST_BITS = 10
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 / golden ratio: Knuth's multiplicative hashing."""
FACTOR = np.uint64(int.from_bytes(os.urandom(8), "little") | 1)
"""A factor that nobody outside of this process knows.

Source: M. Dietzfelbinger and others, "A reliable randomized algorithm for the closest-pair problem", 1997
(multiply-shift hashing).
"""


class BlockIndex:
    """Open addressing with triangular probing over whole columns of ids at once.

    Memory is 4 bytes a place. Places are doubled, and removed ids swept out, where more of them are used
    than ``load``; the emptier they are, the fewer tries an id takes.

    Args:
        load: Share of the places that may be used.

    Attributes:
        places: Slot, or what else each place holds, int32 (2**bits,).
        bits: Of the numbers of places.
        factor: What ids are multiplied by to scatter them; of the program's own choice, so that nobody can
            choose ids that all want the same place.
    """

    def __init__(self, load: float = 0.75) -> None:
        self._load = load
        self.factor = FACTOR
        self._insert_compiled = compiled_loop("kvstream.blocks.index_compiled", "insert_each")
        self._make(_SMALLEST_BITS)

    def _make(self, bits: int) -> None:
        self.bits = bits
        self.places = np.full(1 << bits, EMPTY, dtype=np.int32)
        self._used = 0  # places that are not empty: held or removed

    def lookup(self, ids: I64, id_of: I64) -> I64:
        """The slot of each id, -1 where it has none.

        Args:
            ids: Ids to find, shape (n,).
            id_of: The table's ids by slot.

        Returns:
            Slots, int64 of shape (n,).
        """
        return self._find(ids, id_of)[1]

    def insert(self, ids: I64, slots: I64, id_of: I64) -> None:
        """Adds ids that are not there yet, each once. ``id_of`` must hold them already."""
        self.make_room(len(ids), id_of)
        table, mask = self.places, len(self.places) - 1
        self.note_inserted(len(ids))
        narrow = slots.astype(np.int32)
        if self._insert_compiled is not None:
            self._insert_compiled(table, self.bits, self.factor, ids, narrow)
            return
        place, step = self._home(ids), 0
        while len(narrow):
            free = (table.take(place) < 0).nonzero()[0]
            table[place.take(free)] = narrow.take(free)
            # Two ids may have taken the same place; the one written last keeps it.
            lost = (table.take(place) != narrow).nonzero()[0]
            step += 1
            place, narrow = (place.take(lost) + step) & mask, narrow.take(lost)

    def remove(self, ids: I64, id_of: I64) -> None:
        """Takes out ids that are there, each once."""
        self.places[self._find(ids, id_of)[0]] = REMOVED

    def make_room(self, more: int, id_of: I64) -> None:
        """Sees to it that so many ids can be inserted."""
        if self.lacks_room(more):
            self.rebuild(self.places.take((self.places >= 0).nonzero()[0]).astype(np.int64), more, id_of)

    def lacks_room(self, more: int) -> bool:
        """Whether it must be rebuilt before so many ids are inserted."""
        return self._used + more > self._load * len(self.places)

    def rebuild(self, slots: I64, more: int, id_of: I64) -> None:
        """Makes places for the ids of some slots, all that are held, with room for so many more."""
        self._make(max(_SMALLEST_BITS, math.ceil(math.log2(max(1, len(slots) + more) * 1.5 / self._load))))
        self.insert(id_of.take(slots), slots, id_of)

    def note_inserted(self, inserted: int) -> None:
        """Counts ids for which room was made, as they are inserted."""
        self._used += inserted

    def _home(self, ids: I64) -> I64:
        hashed = ids.view(np.uint64) * self.factor
        hashed >>= np.uint64(64 - self.bits)
        return hashed.view(np.int64)

    def _find(self, ids: I64, id_of: I64) -> tuple[I64, I64]:
        """The place and the slot of each id, -1 where it has none."""
        table, mask = self.places, len(self.places) - 1
        place, step = self._home(ids), 0
        slot = table.take(place).astype(np.int64)
        hit = (id_of.take(slot, mode="wrap") == ids) & (slot >= 0)
        places, slots = np.where(hit, place, -1), np.where(hit, slot, -1)
        asking = (~hit & (slot != EMPTY)).nonzero()[0]
        ids, place = ids.take(asking), place.take(asking)
        while len(asking):
            step += 1
            place = (place + step) & mask
            slot = table.take(place).astype(np.int64)
            hit = (id_of.take(slot, mode="wrap") == ids) & (slot >= 0)
            found = hit.nonzero()[0]
            at = asking.take(found)
            places[at], slots[at] = place.take(found), slot.take(found)
            further = (~hit & (slot != EMPTY)).nonzero()[0]
            asking, ids, place = asking.take(further), ids.take(further), place.take(further)
        return places, slots
