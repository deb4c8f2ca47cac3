# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, auto_pickle=False
"""The block table: what each event of a frame does to its block, in order, over plain arrays.

The index of ids and the hash functions are here too, so that they are compiled into its loop.
``kvstream.testing.ReferenceTable`` says what the results must be.
"""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import math
import os

import numpy as np

from kvstream.events.types import BIRTH_UNKNOWN, MOST_SLOTS, OTHER, REASONS, REPLACED

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core import native
    from cython.cimports.kvstream._core.columns import Columns
else:
    from kvstream._core import native
    from kvstream._core.columns import Columns
from kvstream._core.buckets import IntervalCounter
from kvstream._core.columns import AT_ONCE, COUNTED

_RELEASING = 1024  # events from which on other threads may run meanwhile
_SMALLEST = 64  # slots of an empty table
_DIRECT_ALWAYS, _DIRECT_SPREAD = 65_536, 4  # most slots of a slot stream: in all, or for each live block
_BEGUN_SHARE = 4
_SMALLEST_BITS = 4
_PLACE_MASK = cython.declare(cython.longlong, 2**31 - 1)  # of the bits of a place that is taken in an index
_LOAD = 0.5  # of the index of ids: fuller, each id takes more tries, and each try a line of memory
_FACTOR = int.from_bytes(os.urandom(8), "little") | 1
# ^ Multiply-shift hashing with a factor that nobody outside of this process knows, so that nobody can choose
# keys that all want one place. Source: M. Dietzfelbinger and others, "A reliable randomized algorithm for the
# closest-pair problem", 1997.

_BIRTH_UNKNOWN = cython.declare(cython.longlong, BIRTH_UNKNOWN)
_REASONS = cython.declare(cython.int, len(REASONS))
_OTHER = cython.declare(cython.int, int(OTHER))
_REPLACED = cython.declare(cython.int, int(REPLACED))
_MOST_SLOTS = cython.declare(cython.longlong, MOST_SLOTS)

# Places in COUNTED of what is counted event by event.
_ALLOCATIONS = cython.declare(cython.Py_ssize_t, COUNTED.index("allocations"))
_SAMPLED_ALLOCATIONS = cython.declare(cython.Py_ssize_t, COUNTED.index("sampled_allocations"))
_STORES = cython.declare(cython.Py_ssize_t, COUNTED.index("stores"))
_PUBLISHED_HITS = cython.declare(cython.Py_ssize_t, COUNTED.index("published_hits"))
_COPIES_STORED = cython.declare(cython.Py_ssize_t, COUNTED.index("copies_stored"))
_COPIES_REMOVED = cython.declare(cython.Py_ssize_t, COUNTED.index("copies_removed"))
_SHARED_BETWEEN_SALTS = cython.declare(cython.Py_ssize_t, COUNTED.index("shared_between_salts"))
_RESIDENTS = cython.declare(cython.Py_ssize_t, COUNTED.index("residents"))
_UNKNOWN_BIRTHS = cython.declare(cython.Py_ssize_t, COUNTED.index("unknown_births"))
_UNKNOWN_LIFETIMES = cython.declare(cython.Py_ssize_t, COUNTED.index("unknown_lifetimes"))
_REPLACEMENTS = cython.declare(cython.Py_ssize_t, COUNTED.index("replacements"))
_UNKNOWN_EVICTIONS = cython.declare(cython.Py_ssize_t, COUNTED.index("unknown_evictions"))
_UNKNOWN_ACCESSES = cython.declare(cython.Py_ssize_t, COUNTED.index("unknown_accesses"))
_UNKNOWN_REASONS = cython.declare(cython.Py_ssize_t, COUNTED.index("unknown_reasons"))
_TIME_REGRESSIONS = cython.declare(cython.Py_ssize_t, COUNTED.index("time_regressions"))
_LOOKUPS = cython.declare(cython.Py_ssize_t, COUNTED.index("lookups"))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def mixed(value: cython.longlong) -> cython.ulonglong:
    """Return 64 bits, scattered evenly.

    Source: the finaliser of splitmix64, https://prng.di.unimi.it/splitmix64.c
    """
    full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
    first: cython.ulonglong = 0x9E37_79B9_7F4A_7C15
    second: cython.ulonglong = 0xBF58_476D_1CE4_E5B9
    third: cython.ulonglong = 0x94D0_49BB_1331_11EB
    bits: cython.ulonglong = value & full
    bits = (bits + first) & full
    bits = ((bits ^ (bits >> 30)) * second) & full
    bits = ((bits ^ (bits >> 27)) * third) & full
    return bits ^ (bits >> 31)


def span(later: cython.longlong, earlier: cython.longlong) -> cython.longlong:
    """Return the time between two times of which the first is not the earlier one, ns, at most 2**63 - 1."""
    full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
    most: cython.ulonglong = 0x7FFF_FFFF_FFFF_FFFF
    span: cython.ulonglong = (later & full) - (earlier & full)
    span &= full
    return span if span < most else most


def mix(values):
    """Return the hash of each of some 64-bit integers, uint64 of the same shape.

    Args:
        values: The integers, int64 of any shape.
    """
    result = np.empty(values.size, dtype=np.uint64)
    flat = np.ascontiguousarray(values).reshape(-1)
    value: cython.const[cython.longlong][::1] = memoryview(flat if flat.flags.aligned else flat.copy())
    hashes: cython.ulonglong[::1] = memoryview(result)
    i: cython.Py_ssize_t
    for i in range(len(value)):
        hashes[i] = mixed(value[i])
    return result.reshape(values.shape)


def keep_chosen(
    contents,
    ts,
    begins,
    start: cython.Py_ssize_t,
    highest: cython.ulonglong,
    columns,
    count: cython.Py_ssize_t,
    most: cython.Py_ssize_t,
    newest: cython.longlong,
):
    """Keep what came and went of the contents that are chosen by hash, until columns are full.

    Args:
        contents: Content keys, int64 (n,).
        ts: Times, ns, int64 (n,).
        begins: 1 where a key came in, 0 where it went, uint8 (n,).
        start: The first change that is looked at.
        highest: Highest hash that is chosen.
        columns: Content keys, times and the same flags of the changes kept, each (most or more,); changed.
        count: Changes kept already.
        most: Changes that there is room for.
        newest: Latest time of those that were kept so far.

    Returns:
        The change at which it stopped, ``count`` and ``newest``.
    """
    content: cython.const[cython.longlong][::1] = memoryview(contents)
    time: cython.const[cython.longlong][::1] = memoryview(ts)
    comes: cython.const[cython.uchar][::1] = memoryview(begins)
    kept_contents, kept_ts, kept_begins = columns
    kept_content: cython.longlong[::1] = memoryview(kept_contents)
    kept_time: cython.longlong[::1] = memoryview(kept_ts)
    kept_comes: cython.uchar[::1] = memoryview(kept_begins)
    at: cython.Py_ssize_t = start
    while at < len(content) and count < most:
        if mixed(content[at]) <= highest:
            kept_content[count] = content[at]
            kept_time[count] = time[at]
            kept_comes[count] = comes[at]
            newest = max(newest, time[at])
            count += 1
        at += 1
    return at, count, newest


def count_distinct(values, registers, bits: cython.int):
    """Count integers in the registers of a HyperLogLog sketch.

    Source: P. Flajolet and others, "HyperLogLog", 2007.

    Args:
        values: The integers, int64 (n,).
        registers: Highest rank of each place, uint8 (2**bits,); changed.
        bits: Of the hash that name the place; the others are ranked.
    """
    value: cython.const[cython.longlong][::1] = memoryview(values)
    register: cython.uchar[::1] = memoryview(registers)
    if len(value) >= _RELEASING:
        with cython.nogil:
            _count_distinct(value, register, bits)
    else:
        _count_distinct(value, register, bits)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _count_distinct(
    value: cython.const[cython.longlong][::1], register: cython.uchar[::1], bits: cython.int
) -> cython.void:
    mask: cython.ulonglong = (1 << bits) - 1
    ranked: cython.int = 64 - bits
    i: cython.Py_ssize_t
    for i in range(len(value)):
        hashed: cython.ulonglong = mixed(value[i])
        place: cython.Py_ssize_t = hashed & mask
        # A rank exceeds that of the register if no bit is set before it, which it seldom does.
        rest: cython.ulonglong = hashed >> bits
        rank: cython.int = register[place]
        while rank <= ranked and rest >> (ranked - rank) == 0:
            rank += 1
        register[place] = rank


@cython.final
@cython.cclass
class Index:
    """Where each 64-bit key is kept: open addressing with triangular probing.

    Memory is 4 bytes a place: the slot of a key, and above it as much of the key's hash as there is room for,
    by which nearly every other key is known without being looked at, which would take a line of memory.
    Places are doubled, and removed keys swept out, where more of them are used than ``load``; the emptier
    they are, the fewer tries a key takes.
    """

    def __init__(self, load: float):
        self.load = load
        self.factor = _FACTOR
        self.slot_mask = 0
        self.tag_mask = _PLACE_MASK
        self._make(_SMALLEST_BITS)

    def _make(self, bits: cython.int):
        self.shift = 64 - bits
        self.mask = (1 << bits) - 1
        self.limit = int(self.load * (1 << bits))
        self.used = 0
        self.places = memoryview(np.full(1 << bits, -1, dtype=np.int32))

    def hold(self, keys):
        """Take the column of the keys by slot, int64; slots that are kept have their keys in it."""
        self.keys = memoryview(keys)
        if len(keys) > self.slot_mask + 1:
            self._rebuild(0, (1 << (len(keys) - 1).bit_length()) - 1)

    def rebuild(self, more: cython.longlong):
        """Sweep out removed keys, and make room for ``more`` keys."""
        self._rebuild(more, self.slot_mask)

    def _rebuild(self, more: cython.longlong, slot_mask: cython.longlong):
        held = self.slots()
        self.slot_mask = slot_mask
        self.tag_mask = _PLACE_MASK & ~slot_mask
        places = max(1, len(held) + more) * 1.5 / self.load
        self._make(max(_SMALLEST_BITS, math.ceil(math.log2(places))))
        self._insert(held)

    def slots(self):
        """Return the slots that are kept, int32, in no order."""
        kept = np.asarray(self.places)
        return kept[kept >= 0] & np.int32(self.slot_mask)

    def _home(self, key: cython.longlong) -> cython.longlong:
        """Return the place where a key is if no other is there."""
        full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
        return ((((key & full) * self.factor) & full) >> self.shift) & self.mask

    def _tag(self, key: cython.longlong) -> cython.longlong:
        """Return the part of a key's hash that is kept above its slot."""
        full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
        return ((key & full) * self.factor) & self.tag_mask

    def slot_at(self, place: cython.longlong) -> cython.longlong:
        """Return the slot that is kept at a place; a negative number if none."""
        kept: cython.longlong = self.places[place]
        return kept & self.slot_mask if kept >= 0 else kept

    def find(self, key: cython.longlong) -> cython.longlong:
        """Return the place of a key, or one at which it can be put if it is not there."""
        place: cython.longlong = self._home(key)
        tag: cython.longlong = self._tag(key)
        step: cython.longlong = 0
        free: cython.longlong = -1
        kept: cython.longlong = self.places[place]
        while kept != native.EMPTY:
            if kept >= 0:
                if kept ^ tag <= self.slot_mask and self.keys[kept & self.slot_mask] == key:
                    return place
            elif free < 0:
                free = place
            step += 1
            place = (place + step) & self.mask
            kept = self.places[place]
        return free if free >= 0 else place

    def likely_place(self, key: cython.longlong) -> cython.longlong:
        """Return the place of a key, seldom that of another, or an empty one, without looking at any key."""
        place: cython.longlong = self._home(key)
        tag: cython.longlong = self._tag(key)
        step: cython.longlong = 0
        kept: cython.longlong = self.places[place]
        while kept != native.EMPTY and (kept < 0 or kept ^ tag > self.slot_mask):
            step += 1
            place = (place + step) & self.mask
            kept = self.places[place]
        return place

    def insert(self, slots, more: cython.longlong):
        """Keep slots, int (n,), with keys that are not there yet, and room for ``more`` keys."""
        self.rebuild(len(slots) + more)
        self._insert(slots.astype(np.int32))

    def _insert(self, slots):
        """Keep slots, int32 (n,), with keys that are not there yet, for which there is room."""
        slot: cython.const[cython.int][::1] = memoryview(slots)
        key: cython.longlong
        i: cython.Py_ssize_t
        for i in range(len(slot)):
            if cython.compiled:  # pragma: no cover
                if i + 2 * native.AHEAD < len(slot):
                    native.prefetch(cython.address(self.keys[slot[i + 2 * native.AHEAD]]))
                if i + native.AHEAD < len(slot):
                    self.load_ahead(self.keys[slot[i + native.AHEAD]])
            key = self.keys[slot[i]]
            self.put(self.find(key), slot[i])

    def probes(self, key: cython.longlong) -> int:
        """Return how many places are looked at to find a key."""
        found: cython.longlong = self.find(key)
        place: cython.longlong = self._home(key)
        step: cython.longlong = 0
        while place != found:
            step += 1
            place = (place + step) & self.mask
        return step + 1

    def put(self, place: cython.longlong, slot: cython.longlong) -> cython.void:
        """Keep a slot at a place that ``find`` gave for its key."""
        if self.places[place] == native.EMPTY:
            self.used += 1
        self.places[place] = self._tag(self.keys[slot]) | slot

    def remove(self, key: cython.longlong) -> cython.void:
        """Take out a key that is there."""
        self.places[self.find(key)] = native.REMOVED

    def load_ahead(self, key: cython.longlong) -> cython.void:
        """Begin to load the place of a key into the processor's cache."""
        if cython.compiled:  # pragma: no cover
            native.prefetch(cython.address(self.places[self._home(key)]))


_spare_columns: list = []  # one for each thread that applies events at this moment, made once


@cython.final
@cython.cclass
class Table:
    """The blocks of one cache: a row of 64-bit integers for each slot, with all that is known of its block.

    A row of the usual length is one line of memory, which is what an event costs where blocks are many.

    Ids that are small and dense (slot streams) are slots. Once an id comes that is far beyond the number of
    blocks (content streams), slots are given out, and an index says which holds which id.

    Only one thread may be in it at a time; large frames are applied without the GIL.

    Args:
        depth: Access times kept of a block, at least 1.
        seed: The table's part in the sampling hash.
        sampled_below: A generation is observed if its hash is below; 2**64 observes all.
    """

    # Views of the rows, by slot.
    rows_array = cython.declare(object, visibility="readonly")  # int64 (slots, 2 + times)
    ids_array = cython.declare(object, visibility="readonly")  # by slot, int64, in content streams
    keys_array = cython.declare(object, visibility="readonly")  # content key by slot, int64, in slot streams
    attribution_array = cython.declare(object, visibility="readonly")  # label set by slot, uint16
    live_count = cython.declare(cython.longlong, visibility="readonly")
    by_hash = cython.declare(cython.bint, visibility="readonly")  # ids are content hashes
    index: Index
    whole_rows: object  # int64 (slots, 2 + times + 2)
    rows: cython.longlong[:, ::1]  # the same: birth, access count, last access times, id or key, all others
    id_column: cython.Py_ssize_t
    slots: cython.longlong
    mask: cython.longlong  # access i is at place i & mask of the times; the birth at -1 & mask until then
    depth: cython.longlong
    seed: cython.longlong
    sampled_below: cython.ulonglong
    all_sampled: cython.bint
    ids: cython.longlong[:]
    free: cython.longlong[::1]  # slots given back, a stack, in content streams
    free_count: cython.longlong
    next: cython.longlong  # first slot never used, in content streams
    begun: cython.longlong[::1]  # slots used since the last clear, in slot streams
    begun_count: cython.longlong  # -1 where looking at each slot costs no more
    key_of: cython.longlong[:]
    has_keys: cython.bint
    attribution_of: cython.ushort[:]
    is_attributed: cython.bint
    copies_array = cython.declare(object, visibility="readonly")
    copies: cython.uint[:]  # of the block in each slot, beside the first
    has_copies: cython.bint
    busy: cython.bint
    likely_places: cython.longlong[::1]  # in the index, of the blocks of the next events
    # Of the frame that is applied.
    ops: cython.const[cython.uchar][::1]
    blocks: cython.const[cython.longlong][::1]
    ts: cython.const[cython.longlong][::1]
    reasons: cython.const[cython.uchar][::1]
    keys: cython.const[cython.longlong][::1]
    labels: cython.const[cython.ushort][::1]
    label_sets: cython.const[cython.ushort][::1]
    of_label_sets: cython.longlong[:, ::1]  # counts
    given_reasons: cython.bint
    given_keys: cython.bint
    given_labels: cython.bint
    salts: cython.const[cython.ushort][::1]
    has_salts: cython.bint
    records: cython.bint
    changes: cython.bint
    looked_up_below: cython.ulonglong
    all_looked_up: cython.bint
    counted_since: cython.longlong
    columns: Columns

    def __init__(self, depth: int, seed: int, sampled_below: int):
        self.depth = depth
        self.mask = (1 << (depth - 1).bit_length()) - 1
        self.seed = seed
        self.all_sampled = sampled_below > 2**64 - 1
        self.sampled_below = sampled_below & 2**64 - 1
        self.live_count = 0
        self.by_hash = self.has_keys = self.is_attributed = self.has_copies = self.busy = False
        self.index = Index(_LOAD)
        self.likely_places = memoryview(np.empty(native.AHEAD, dtype=np.int64))
        self.free_count = self.next = self.begun_count = 0
        self.slots = 0
        nothing = np.empty(0, dtype=np.int64)
        self.ids_array = self.keys_array = nothing
        self.attribution_array = np.empty(0, dtype=np.uint16)
        self.ids = self.free = self.begun = self.key_of = memoryview(nothing)
        self.attribution_of = memoryview(self.attribution_array)
        self.copies_array = np.empty(0, dtype=np.uint32)
        self.copies = memoryview(self.copies_array)
        self.id_column = native.TIMES + self.mask + 1
        self.whole_rows = np.empty((0, self.id_column + 2), dtype=np.int64)
        self._widen(_SMALLEST)

    # Room

    def _widen(self, slots: cython.longlong):
        """Hold ``slots`` slots, more than there are."""
        held: cython.longlong = self.slots
        rows = zeroed_rows(slots, self.whole_rows.shape[1])
        rows[:held] = self.whole_rows
        rows[held:, native.COUNT] = native.NOT_LIVE
        self.whole_rows = rows
        self.rows_array = rows[:, : self.id_column]
        self.rows = memoryview(rows)
        self.slots = slots
        if self.by_hash:
            free = np.empty(slots, dtype=np.int64)
            free[:held] = np.asarray(self.free)
            self.free = memoryview(free)
        else:
            begun = np.empty(slots // _BEGUN_SHARE, dtype=np.int64)
            if self.begun_count > 0:
                begun[: self.begun_count] = np.asarray(self.begun)[: self.begun_count]
            self.begun = memoryview(begun)
        self._find_columns()

    def _find_columns(self):
        """Have a view of each column of the rows that is in use."""
        rows = self.whole_rows
        if self.by_hash:
            self.ids_array = rows[:, self.id_column]
            self.ids = memoryview(self.ids_array)
            self.index.hold(self.ids_array)
        elif self.has_keys:
            self.keys_array = rows[:, self.id_column]
            self.key_of = memoryview(self.keys_array)
        last: cython.Py_ssize_t = self.id_column + 1
        if self.is_attributed:
            self.attribution_array = rows.view(np.uint16)[:, 4 * last]
            self.attribution_of = memoryview(self.attribution_array)
        if self.has_copies:
            self.copies_array = rows.view(np.uint32)[:, 2 * last + 1]
            self.copies = memoryview(self.copies_array)

    def _grow(self, needed: cython.longlong, most: cython.longlong):
        """Hold as many slots as are needed, and some more up to ``most``."""
        if needed > self.slots:
            size: cython.longlong = self.slots
            while size < needed:
                size *= 2
            self._widen(max(needed, min(size, most)))

    def _make_room(self, event: cython.Py_ssize_t, end: cython.Py_ssize_t):
        """Make room for the block that an event begins, and for those after it as far as is worth it."""
        if (
            not self.has_copies
            and self.ops[event] >= native.STORE  # not a removal, for which nothing is needed
            and self._is_live(self._slot(self.blocks[event]))
        ):
            self.keep_copies()
            return
        if not self.by_hash:
            ops = np.asarray(self.ops[event:end])
            allocated = np.asarray(self.blocks[event:end])[
                (ops != native.EVICT) & (ops != native.REMOVE) & (ops != native.CLEAR)
            ]
            low, high = int(allocated.min()), int(allocated.max())
            most = max(_DIRECT_ALWAYS, _DIRECT_SPREAD * (self.live_count + len(allocated)))
            if low >= 0 and high < max(most, self.slots):
                self._grow(high + 1, most)
                return
            self._go_by_hash()
        if self.index.used >= self.index.limit:
            self.index.rebuild(end - event)
        if not self.free_count and self.next == self.slots:
            self._grow(self.slots + 1, 2**46)

    def _go_by_hash(self):
        """Keep ids in an index from now on."""
        live = self.live_slots()
        self.by_hash = True
        self._find_columns()
        self.ids_array[:] = np.arange(self.slots)
        self.index.insert(live, 0)
        vacant = np.flatnonzero(self.rows_array[:, native.COUNT] < 0)
        free = np.empty(self.slots, dtype=np.int64)
        free[: len(vacant)] = vacant
        self.free = memoryview(free)
        self.free_count = len(vacant)
        self.next = self.slots

    def keep_keys(self):
        """Keep a content key for each slot from now on."""
        if not self.has_keys:
            self.has_keys = True
            self._find_columns()

    def keep_attribution(self):
        """Keep the label set of each block from now on."""
        if not self.is_attributed:
            self.is_attributed = True
            self._find_columns()

    def keep_copies(self):
        """Count the further copies of each block from now on."""
        if not self.has_copies:
            self.has_copies = True
            self._find_columns()

    # Queries

    def slots_of(self, ids):
        """Return the slot of each id, -1 where no block is live, int64 (n,)."""
        wanted: cython.const[cython.longlong][::1] = memoryview(ids)
        result = np.empty(len(ids), dtype=np.int64)
        slots: cython.longlong[::1] = memoryview(result)
        i: cython.Py_ssize_t
        slot: cython.longlong
        for i in range(len(wanted)):
            slot = self._slot(wanted[i])
            slots[i] = slot if self._is_live(slot) else -1
        return result

    def probes(self, ids):
        """Return how many places are looked at to find each id, of a content stream, int64 (n,)."""
        return np.array([self.index.probes(block) for block in ids.tolist()], dtype=np.int64)

    def live_slots(self):
        """Return the slots that hold a block, ascending, int64."""
        counts = self.rows_array[:, native.COUNT]
        if self.by_hash:
            return np.flatnonzero(counts[: self.next] >= 0)
        if self.begun_count < 0:
            return np.flatnonzero(counts >= 0)
        begun = np.unique(np.asarray(self.begun)[: self.begun_count])
        return begun[counts[begun] >= 0]

    def clear(self):
        """End every generation."""
        live = self.live_slots()
        self.rows_array[live, native.COUNT] = native.NOT_LIVE
        if self.has_copies:
            self.copies_array[live] = 0
        self.live_count = self.begun_count = 0
        if self.by_hash:
            self.index = Index(_LOAD)
            self.index.hold(self.ids_array)
            self.free_count = self.next = 0

    def restore(self, by_hash: bool, slots: int, blocks, rows, keys, attribution, copies):
        """Hold live blocks as they were saved; in a new table.

        Args:
            by_hash: Whether ids are content hashes.
            slots: Slots of a slot stream, as ids beyond them may make it a content stream.
            blocks: Ids, none twice, int64 (n,).
            rows: Their rows, int64 (n, 2 + times).
            keys: Content keys, int64 (n,), or None where none was ever given.
            attribution: Label sets, uint16 (n,), or None where there were no labels yet.
            copies: Copies beside the first, uint32 (n,), or None where there were none yet.

        Raises:
            ValueError: If columns differ in length, or ids are out of range.
        """
        count: cython.Py_ssize_t = len(blocks)
        if by_hash:
            self._go_by_hash()
            self.free_count = 0
            if count > self.slots:
                self._widen(count)
            places = np.arange(count)
            self.ids_array[:count] = blocks
            self.index.insert(places, 0)
            self.next = count
        else:
            if slots > self.slots:
                self._widen(slots)
            if count and not 0 <= int(blocks.min()) <= int(blocks.max()) < self.slots:
                raise ValueError(f"ids beyond {self.slots} slots")
            places = blocks
            self.begun_count = -1
            if count <= len(self.begun):
                np.asarray(self.begun)[:count] = places
                self.begun_count = count
        self.rows_array[places] = rows
        self.live_count = count
        if keys is not None:
            self.keep_keys()
            self.keys_array[places] = keys
        if attribution is not None:
            self.keep_attribution()
            self.attribution_array[places] = attribution
        if copies is not None:
            self.keep_copies()
            self.copies_array[places] = copies

    # Events

    def begin(
        self,
        ops,
        blocks,
        ts,
        reasons,
        keys,
        labels,
        label_sets,
        counts,
        records: bool,
        changes: bool,
        looked_up_below: int,
        counted_since: int,
        salts=None,
    ):
        """Take a frame, to be applied by ``apply``.

        Args:
            ops: Operations, uint8 (n,).
            blocks: Block ids, int64 (n,).
            ts: Times, ns, int64 (n,).
            reasons: Reason codes, uint8 (n,), or None where none is given.
            keys: Content keys, int64 (n,), or None where none is given.
            labels: Place in ``label_sets`` of each event's labels, uint16 (n,), or None where all are 0.
            label_sets: Numbers of label sets, uint16 (k,), or None where the events have no labels.
            counts: A row for each label set (``COUNTED_BY_LABEL_SET``), int64, to which is added; None where
                nothing ever had labels.
            records: Show what a record of each eviction needs.
            changes: Show which content keys come and go.
            looked_up_below: Show lookups of content keys whose hash is below; 0 shows none, 2**64 all.
            counted_since: Start of the open window, ns: blocks already shown as used since then are skipped.
            salts: A number for the salt of each label set, 0 for none, uint16, or None where there are none.

        Raises:
            ValueError: If columns differ in length, or labels are out of range.
        """
        count: cython.Py_ssize_t = len(ops)
        if self.busy:
            raise RuntimeError("two threads apply events to one table")
        for column in (blocks, ts, reasons, keys, labels):
            if column is not None and len(column) != count:
                raise ValueError(f"columns of {count} and {len(column)} events")
        self.given_labels = labels is not None and label_sets is not None
        if self.given_labels:
            self.labels, self.label_sets = native.view(labels), native.view(label_sets)
            _check_below(self.labels, len(label_sets), "a label beyond the label sets")
            _check_below(self.label_sets, 0 if counts is None else len(counts), "a label set without counts")
        if counts is not None:
            self.keep_attribution()
            self.of_label_sets = native.view(counts)
        elif self.is_attributed:
            raise ValueError("no counts of label sets")
        if keys is not None and not self.by_hash:
            self.keep_keys()
        self.ops, self.blocks, self.ts = native.view(ops), native.view(blocks), native.view(ts)
        self.given_reasons, self.given_keys = reasons is not None, keys is not None
        self.reasons = self.ops if reasons is None else native.view(reasons)
        self.keys = self.blocks if keys is None else native.view(keys)
        self.has_salts = self.given_labels and salts is not None
        if self.has_salts:
            self.salts = native.view(salts)
        self.records, self.changes = records, changes
        self.all_looked_up = looked_up_below > 2**64 - 1
        self.looked_up_below = looked_up_below & 2**64 - 1
        self.counted_since = counted_since

    def apply(self, start: int, seen, counter: IntervalCounter | None = None):
        """Apply events from one on, up to a clear, the end, or ``AT_ONCE`` of them.

        Args:
            start: The event.
            seen: What was seen so far, to which counts and columns are added (``Columns.add_to``).
            counter: Counts the intervals as long as nothing has labels; they are in no column then.

        Returns:
            The event at which it stopped, the columns that make records (``Columns.add_to``), and whether
            births of some evicted blocks are unknown.
        """
        end: cython.Py_ssize_t = min(len(self.ops), start + AT_ONCE)
        at: cython.Py_ssize_t = start
        self.busy = True
        try:
            self.columns = _spare_columns.pop()
        except IndexError:
            self.columns = Columns()
        try:
            if self.records:
                self.columns.see_to_history(self.depth)
            while True:
                if end - at >= _RELEASING:
                    with cython.nogil:
                        at = self._run(at, end)
                else:
                    at = self._run(at, end)
                if at == end or self.ops[at] == native.CLEAR:
                    break
                self._make_room(at, end)
            if self.is_attributed:
                counter = None
                self.columns.count_by_label_set(self.of_label_sets)
            if counter is not None:
                counter.count(self.columns)
            columns = self.columns.add_to(seen, self.is_attributed, self.records, counter is not None)
            return at, columns, self.columns.counts[_UNKNOWN_LIFETIMES] > 0
        finally:
            self.columns.empty()
            _spare_columns.append(self.columns)
            self.busy = False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _run(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Apply events up to a clear, or to one for whose block there is no room; return which."""
        event: cython.Py_ssize_t
        for event in range(start - native.AHEAD, end):
            if event >= start and not self._apply_one(event):
                return event
            if event + native.AHEAD < end:
                self._look_ahead(event + native.AHEAD, end)
        return end

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _apply_one(self, event: cython.Py_ssize_t) -> cython.bint:
        """Apply one event; return False where that cannot be done here."""
        op: cython.int = self.ops[event]
        block: cython.longlong = self.blocks[event]
        time: cython.longlong = self.ts[event]
        if op == native.CLEAR:
            return False
        place: cython.longlong = -1
        slot: cython.longlong
        if self.by_hash:
            place = self._find(event, block)
            slot = self.index.slot_at(place)
        else:
            slot = block if 0 <= block < self.slots else -1
        is_live: cython.bint = self._is_live(slot)
        is_store: cython.bint = op >= native.STORE and op != native.REMOVE and op != native.RESIDENT
        if op == native.ALLOC or (is_store and not is_live):
            if slot < 0:
                slot = self._place(place, block)
                if slot < 0:
                    return False
            self._allocate(event, slot, block, time, is_live)
        elif not is_live:
            if op in (native.EVICT, native.REMOVE):
                self.columns.counts[_UNKNOWN_EVICTIONS] += 1
            else:
                if slot < 0:
                    slot = self._place(place, block)
                    if slot < 0:
                        return False
                self._take_in(event, slot, block, time, op == native.ACCESS)
        elif op == native.EVICT and self.has_copies and self.copies[slot]:
            self.copies[slot] -= 1
            self.columns.counts[_COPIES_REMOVED] += 1
        elif op in (native.EVICT, native.REMOVE):
            if self.has_copies:
                self.copies[slot] = 0
            self._evict(event, slot, block, time)
            if self.by_hash:
                self.index.places[place] = native.REMOVED
                self.free[self.free_count] = slot
                self.free_count += 1
        elif op in (native.ACCESS, native.PREFIX):
            self._access(slot, block, time)
            if op == native.PREFIX:
                self.columns.counts[_PUBLISHED_HITS] += 1
        elif op == native.RESIDENT:
            self.columns.counts[_RESIDENTS] += 1
        elif self.has_copies:
            self.copies[slot] += 1
            self.columns.counts[_COPIES_STORED] += 1
        else:
            return False
        if is_store:
            self.columns.counts[_STORES] += 1
            if is_live and self.has_salts:
                self._compare_salts(event, slot)
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _compare_salts(self, event: cython.Py_ssize_t, slot: cython.longlong) -> cython.void:
        """Count a store of a live block under another salt than its own."""
        salt: cython.ushort = self.salts[self.label_sets[self.labels[event]]]
        own: cython.ushort = self.salts[self.attribution_of[slot]]
        if salt and own and salt != own:
            self.columns.counts[_SHARED_BETWEEN_SALTS] += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _slot(self, block: cython.longlong) -> cython.longlong:
        """Return the slot that a block has, whether it is live or not; a negative number if none."""
        if self.by_hash:
            return self.index.slot_at(self.index.find(block))
        return block if 0 <= block < self.slots else -1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _is_live(self, slot: cython.longlong) -> cython.bint:
        """Return whether a slot, if it is one, holds a block."""
        return slot >= 0 and self.rows[slot, native.COUNT] != native.NOT_LIVE

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _place(self, place: cython.longlong, block: cython.longlong) -> cython.longlong:
        """Return a slot for a block that has none, at its place in the index; -1 if there is no room."""
        if not self.by_hash or self.index.used >= self.index.limit:
            return -1
        slot: cython.longlong = self._vacant_slot()
        if slot >= 0:
            self.ids[slot] = block
            self.index.put(place, slot)
        return slot

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _vacant_slot(self) -> cython.longlong:
        """Return a slot that holds nothing, of a content stream; -1 if there is none."""
        if self.free_count:
            self.free_count -= 1
            return self.free[self.free_count]
        if self.next == self.slots:
            return -1
        self.next += 1
        return self.next - 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _is_sampled(self, block: cython.longlong, birth: cython.longlong) -> cython.bint:
        """Return whether a generation is observed."""
        if self.all_sampled:
            return True
        of_block: cython.longlong = native.as_signed(mixed(block ^ self.seed))
        return mixed(of_block ^ birth) < self.sampled_below

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _interval(self, later: cython.longlong, earlier: cython.longlong) -> cython.longlong:
        """Return the time between, ns; 0, and counted, where the later time is the earlier one."""
        if later < earlier:
            self.columns.counts[_TIME_REGRESSIONS] += 1
            return 0
        return span(later, earlier)

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _last_use(self, slot: cython.longlong) -> cython.longlong:
        """Return the time of the last access of a live block, or else of its allocation, ns."""
        return self.rows[slot, native.TIMES + ((self.rows[slot, native.COUNT] - 1) & self.mask)]

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _key(self, slot: cython.longlong, block: cython.longlong) -> cython.longlong:
        """Return the content key of a live block, 0 if it is unknown."""
        if self.by_hash:
            return block if self._is_content(block) else 0
        return self.key_of[slot] if self.has_keys else 0

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _given_key(self, event: cython.Py_ssize_t, block: cython.longlong) -> cython.longlong:
        """Return the content key that an event gives its block, 0 if none."""
        if self.by_hash:
            return block if self._is_content(block) else 0
        return self.keys[event] if self.given_keys else 0

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _given_attribution(self, event: cython.Py_ssize_t) -> cython.ushort:
        """Return the label set that an event gives its block, 0 for none."""
        return self.label_sets[self.labels[event]] if self.given_labels else 0

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _is_content(self, block: cython.longlong) -> cython.bint:
        """Return whether an id is a content hash, as which only high ids can be known."""
        return self.by_hash and (block < 0 or block >= _MOST_SLOTS)

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _allocate(
        self,
        event: cython.Py_ssize_t,
        slot: cython.longlong,
        block: cython.longlong,
        time: cython.longlong,
        is_live: cython.bint,
    ) -> cython.void:
        """Begin a generation, which ends the one that the block has."""
        key: cython.longlong = self._given_key(event, block)
        attribution: cython.ushort = self._given_attribution(event)
        if is_live:
            before: cython.longlong = self._key(slot, block)
            self._end(slot, block, time, _REPLACED)
            if self.has_copies:
                self.copies[slot] = 0
            self.columns.counts[_REPLACEMENTS] += 1
            if before != key:
                self._change(before, time, False, self._attribution(slot))
                self._change(key, time, True, attribution)
        else:
            self._note_live(slot)
            self._change(key, time, True, attribution)
        self._know(slot, key, attribution, time)
        self.columns.counts[_ALLOCATIONS] += 1
        self.columns.counts[_SAMPLED_ALLOCATIONS] += self._is_sampled(block, time)
        self.rows[slot, native.BIRTH] = time
        self.rows[slot, native.COUNT] = 0
        self.rows[slot, native.TIMES + (-1 & self.mask)] = time
        self._use(block, time)
        self._look_up(key)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _take_in(
        self,
        event: cython.Py_ssize_t,
        slot: cython.longlong,
        block: cython.longlong,
        time: cython.longlong,
        is_access: cython.bint,
    ) -> cython.void:
        """Begin to follow a block that was in the cache before anything was heard of it."""
        key: cython.longlong = self._given_key(event, block)
        attribution: cython.ushort = self._given_attribution(event)
        self._note_live(slot)
        self._know(slot, key, attribution, time)
        if self.is_attributed:
            self.columns.late_of[self.columns.late_count] = attribution
            self.columns.late_count += 1
        self.columns.counts[_UNKNOWN_BIRTHS] += 1
        self.rows[slot, native.BIRTH] = _BIRTH_UNKNOWN
        self.rows[slot, native.COUNT] = is_access
        self.rows[slot, native.TIMES + ((is_access - 1) & self.mask)] = time
        if is_access:
            self.columns.counts[_UNKNOWN_ACCESSES] += 1
            self._change(key, time, True, attribution)
            self._use(block, _BIRTH_UNKNOWN)
        else:
            # When it came is unknown, so that nobody can say after what time it came back.
            self.columns.counts[_RESIDENTS] += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _access(self, slot: cython.longlong, block: cython.longlong, time: cython.longlong) -> cython.void:
        """Count a hit of a live block, and observe the time since it was last used."""
        birth: cython.longlong = self.rows[slot, native.BIRTH]
        count: cython.longlong = self.rows[slot, native.COUNT]
        last: cython.longlong = self.rows[slot, native.TIMES + ((count - 1) & self.mask)]
        # Nobody knows when a block that a snapshot has shown was used before.
        is_known: cython.bint = count > 0 or birth != _BIRTH_UNKNOWN
        interval: cython.longlong = self._interval(time, last) if is_known else 0
        if not is_known or not self._is_sampled(block, birth):
            if self.is_attributed:
                self.columns.unobserved_of[self.columns.unobserved_count] = self.attribution_of[slot]
            self.columns.unobserved_count += 1
        else:
            # Both are written and one is kept, as no processor foresees which of them it will be.
            self.columns.reuse_gap[self.columns.gap_count] = interval
            self.columns.first_reuse[self.columns.first_count] = interval
            if self.is_attributed:
                self.columns.gap_of[self.columns.gap_count] = self.attribution_of[slot]
                self.columns.first_of[self.columns.first_count] = self.attribution_of[slot]
            self.columns.gap_count += count > 0
            self.columns.first_count += count == 0
        self.rows[slot, native.COUNT] = count + 1
        self.rows[slot, native.TIMES + (count & self.mask)] = time
        if not (is_known and self.counted_since <= last <= time):
            self._use(block, birth)
        self._look_up(self._key(slot, block))

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _evict(
        self,
        event: cython.Py_ssize_t,
        slot: cython.longlong,
        block: cython.longlong,
        time: cython.longlong,
    ) -> cython.void:
        """End a generation for the reason that the event gives."""
        reason: cython.int = self.reasons[event] if self.given_reasons else 0
        if reason >= _REASONS:
            reason = _OTHER
            self.columns.counts[_UNKNOWN_REASONS] += 1
        self._end(slot, block, time, reason)
        self._change(self._key(slot, block), time, False, self._attribution(slot))
        self.rows[slot, native.COUNT] = native.NOT_LIVE
        self.live_count -= 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _end(
        self,
        slot: cython.longlong,
        block: cython.longlong,
        time: cython.longlong,
        reason: cython.int,
    ) -> cython.void:
        """Observe the end of a generation."""
        birth: cython.longlong = self.rows[slot, native.BIRTH]
        idle: cython.longlong = -1
        lifetime: cython.longlong = -1
        if birth != _BIRTH_UNKNOWN or self.rows[slot, native.COUNT]:
            idle = self._interval(time, self._last_use(slot))
        if birth != _BIRTH_UNKNOWN:
            lifetime = self._interval(time, birth)
        else:
            self.columns.counts[_UNKNOWN_LIFETIMES] += 1
        self.columns.evictions[reason] += 1
        if self.is_attributed:
            self.columns.ended_ts[self.columns.ended_count] = time
            self.columns.ended_of[self.columns.ended_count] = self.attribution_of[slot]
        self.columns.ended_count += 1
        if self._is_sampled(block, birth):
            at: cython.Py_ssize_t = self.columns.evicted_count
            self.columns.lifetime[at] = lifetime
            self.columns.idle[at] = idle
            self.columns.access_count[at] = self.rows[slot, native.COUNT]
            self.columns.evicted_of[at] = self._attribution(slot)
            if self.records:
                self.columns.evicted_block[at] = block
                self.columns.evicted_ts[at] = time
                self.columns.evicted_reason[at] = reason
                self._record_history(slot, at)
            self.columns.evicted_count += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _record_history(self, slot: cython.longlong, at: cython.Py_ssize_t) -> cython.void:
        """Copy the last access times of a block, oldest first and right-aligned."""
        count: cython.longlong = self.rows[slot, native.COUNT]
        back: cython.longlong
        for back in range(self.depth):
            time: cython.longlong = 0
            if back < count:
                time = self.rows[slot, native.TIMES + ((count - 1 - back) & self.mask)]
            self.columns.history[at, self.depth - 1 - back] = time

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _attribution(self, slot: cython.longlong) -> cython.ushort:
        """Return the label set of a live block, 0 for none."""
        return self.attribution_of[slot] if self.is_attributed else 0

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _note_live(self, slot: cython.longlong) -> cython.void:
        """Count a slot that holds a block from now on; note those in use since the last clear, if few."""
        self.live_count += 1
        if self.by_hash or self.begun_count < 0:
            return
        if self.begun_count < len(self.begun):
            self.begun[self.begun_count] = slot
            self.begun_count += 1
        else:
            self.begun_count = -1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _know(
        self,
        slot: cython.longlong,
        key: cython.longlong,
        attribution: cython.ushort,
        time: cython.longlong,
    ) -> cython.void:
        """Keep the content key and the label set of a generation that is known from a time on."""
        if self.has_keys and not self.by_hash:
            self.key_of[slot] = key
        if self.is_attributed:
            self.attribution_of[slot] = attribution
            self.columns.begun_ts[self.columns.begun_count] = time
            self.columns.begun_of[self.columns.begun_count] = attribution
            self.columns.begun_count += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _change(
        self,
        key: cython.longlong,
        time: cython.longlong,
        begins: cython.bint,
        attribution: cython.ushort,
    ) -> cython.void:
        """Show a content key that came or went; 0 is none."""
        if key and self.changes:
            at: cython.Py_ssize_t = self.columns.change_count
            self.columns.change_key[at] = key
            self.columns.change_ts[at] = time
            self.columns.change_begins[at] = begins
            self.columns.change_of[at] = attribution
            self.columns.change_count += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _use(self, block: cython.longlong, birth: cython.longlong) -> cython.void:
        """Show what was in use: a content key or, in slot streams, a number of the generation's own."""
        full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
        scatter: cython.ulonglong = 0x1E37_79B9_7F4A_7C15
        used: cython.longlong = block
        if not self._is_content(block):
            used = native.as_signed((((block & full) * scatter) + (birth & full)) & full)
        self.columns.used[self.columns.used_count] = used
        self.columns.used_count += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _look_up(self, key: cython.longlong) -> cython.void:
        """Count a lookup of a known content key, and show it if the miss-ratio curve follows it."""
        if key:
            self.columns.counts[_LOOKUPS] += 1
            if self.all_looked_up or (self.looked_up_below and mixed(key) < self.looked_up_below):
                self.columns.looked_up[self.columns.looked_up_count] = key
                self.columns.looked_up_count += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _look_ahead(self, event: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.void:
        """Find the row of an event and begin to load it, so that memory answers while others are applied."""
        if cython.compiled:  # pragma: no cover
            if event % native.LINE == 0:
                # Where few events are allocations, the processor does not foresee that these are read.
                if self.given_keys:
                    native.prefetch(cython.address(self.keys[event]))
                if self.given_labels:
                    native.prefetch(cython.address(self.labels[event]))
            slot: cython.longlong = self.blocks[event]
            if self.by_hash:
                if event + native.AHEAD < end:
                    self.index.load_ahead(self.blocks[event + native.AHEAD])
                place: cython.longlong = self.index.likely_place(slot)
                self.likely_places[event & (native.AHEAD - 1)] = place
                slot = self.index.slot_at(place)
            if 0 <= slot < self.slots:
                native.prefetch(cython.address(self.rows[slot, 0]))
                if self.id_column >= native.LINE:
                    native.prefetch(cython.address(self.rows[slot, self.id_column]))

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _find(self, event: cython.Py_ssize_t, block: cython.longlong) -> cython.longlong:
        """Return the place of an event's block in the index, or one at which it can be put."""
        if cython.compiled:  # pragma: no cover
            place: cython.longlong = self.likely_places[event & (native.AHEAD - 1)]
            slot: cython.longlong = self.index.slot_at(place)
            if slot >= 0 and self.ids[slot] == block:
                return place
        return self.index.find(block)


@cython.cfunc
def _check_below(values: cython.const[cython.ushort][::1], bound: cython.Py_ssize_t, problem: str):
    """Raise ValueError if a value is not below a bound."""
    highest: cython.ushort = 0
    i: cython.Py_ssize_t
    for i in range(len(values)):
        highest = max(highest, values[i])
    if len(values) and highest >= bound:
        raise ValueError(problem)


def zeroed_rows(count: int, width: int):
    """Return rows of int64 in which none of eight columns lies in two lines of memory."""
    flat = np.zeros(count * width + native.LINE, dtype=np.int64)
    start: int = -(flat.ctypes.data // flat.itemsize) % native.LINE
    return flat[start : start + count * width].reshape(count, width)
