"""BlockIndex: where in the table each 64-bit content hash lives."""

import numpy as np
import numpy.typing as npt

from kvstream.blocks.hashing import mix

I64 = npt.NDArray[np.int64]
_EMPTY, _REMOVED = -1, -2


class BlockIndex:
    """Open addressing with linear probing over whole columns of ids at once.

    Memory is 4 bytes a place, and at least half of the places stay empty.
    """

    def __init__(self) -> None:
        self._places = np.full(1024, _EMPTY, dtype=np.int32)
        self._used = 0  # places that are not empty: held or removed
        self._held = 0

    def lookup(self, ids: I64, id_of: I64) -> I64:
        """The slot of each id, -1 where it has none.

        Args:
            ids: Ids to find, shape (n,).
            id_of: The table's ids by slot.

        Returns:
            Slots, int64 of shape (n,).
        """
        places = self._find(ids, id_of)
        return np.where(places >= 0, self._places[places], -1).astype(np.int64)

    def insert(self, ids: I64, slots: I64, id_of: I64) -> None:
        """Adds ids that are not there yet, each once. ``id_of`` must hold them already."""
        if (self._used + len(ids)) * 2 > len(self._places):
            self._rebuild(self._held + len(ids), id_of)
        table = self._places
        mask = len(table) - 1
        place = (mix(ids) & np.uint64(mask)).astype(np.int64)
        slots = slots.astype(np.int32)
        while len(slots):
            free = table[place] < 0
            table[place[free]] = slots[free]
            # Two ids may have taken the same place; the one written last keeps it.
            lost = table[place] != slots
            place, slots = (place[lost] + 1) & mask, slots[lost]
        self._held += len(ids)
        self._used += len(ids)

    def remove(self, ids: I64, id_of: I64) -> None:
        """Takes out ids that are there, each once."""
        self._places[self._find(ids, id_of)] = _REMOVED
        self._held -= len(ids)

    def _find(self, ids: I64, id_of: I64) -> I64:
        table = self._places
        mask = len(table) - 1
        found = np.full(len(ids), -1, dtype=np.int64)
        asking = np.arange(len(ids))
        place = (mix(ids) & np.uint64(mask)).astype(np.int64)
        while len(asking):
            slot = table[place]
            hit = (slot >= 0) & (id_of[slot] == ids)
            found[asking[hit]] = place[hit]
            further = ~hit & (slot != _EMPTY)
            asking, ids, place = asking[further], ids[further], (place[further] + 1) & mask
        return found

    def _rebuild(self, room_for: int, id_of: I64) -> None:
        held = self._places[self._places >= 0].astype(np.int64)
        size = 1024
        while size < room_for * 3:
            size *= 2
        self._places = np.full(size, _EMPTY, dtype=np.int32)
        self._used = self._held = 0
        self.insert(id_of[held], held, id_of)
