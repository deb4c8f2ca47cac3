# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The block table: what each event of a frame does to its block, in order, over plain arrays.

Also what follows blocks by their content key: the index of keys, premature evictions and the LRU stack.
``kvstream.testing.ReferenceTable`` says what the results must be.
"""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import math
import os

import numpy as np

from kvstream.events.types import OTHER, REASONS, REPLACED, Op

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core.native import bit_length, prefetch
else:
    bit_length = int.bit_length

COMPILED = bool(cython.compiled)
"""Whether this module runs as machine code."""

AT_ONCE = 16_384
"""Events that are applied before what they showed is taken out; more would only take more memory."""

NOT_LIVE = -1
"""Access count of a slot that holds no block."""

_NOT_LIVE = cython.declare(cython.int, NOT_LIVE)
_RELEASING = 1024  # events from which on other threads may run meanwhile
_SMALLEST = 1024  # slots of an empty table
_DIRECT_ALWAYS, _DIRECT_SPREAD = 65_536, 4  # most slots of a slot stream: in all, or for each live block
_BEGUN_SHARE = 4
_SMALLEST_BITS = 10
_LOAD = 0.5  # of the index of ids: fuller, each id takes more tries, and each try a line of memory
_FACTOR = int.from_bytes(os.urandom(8), "little") | 1
# ^ Multiply-shift hashing with a factor that nobody outside of this process knows, so that nobody can choose
# keys that all want one place. Source: M. Dietzfelbinger and others, "A reliable randomized algorithm for the
# closest-pair problem", 1997.

_ALLOC = cython.declare(cython.int, int(Op.ALLOC))
_ACCESS = cython.declare(cython.int, int(Op.ACCESS))
_EVICT = cython.declare(cython.int, int(Op.EVICT))
_CLEAR = cython.declare(cython.int, int(Op.CLEAR))
_STORE = cython.declare(cython.int, int(Op.STORE))
_REASONS = cython.declare(cython.int, len(REASONS))
_OTHER = cython.declare(cython.int, int(OTHER))
_REPLACED = cython.declare(cython.int, int(REPLACED))
_EMPTY = cython.declare(cython.int, -1)  # a place that never held a slot
_REMOVED = cython.declare(cython.int, -2)  # one that holds none any more
_NEVER = cython.declare(cython.longlong, int(np.iinfo(np.int64).min))  # eviction time where no key is
_BIRTH = cython.declare(cython.int, 0)  # columns of a row of the table
_COUNT = cython.declare(cython.int, 1)
_TIMES = cython.declare(cython.int, 2)
_AHEAD = cython.declare(cython.int, 32)  # events that are applied while memory answers
_KEYS_AHEAD = cython.declare(cython.int, 16)
_MOST_SLOTS = cython.declare(cython.longlong, 2**32)  # beyond, an id can only be a content hash


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _mixed(value: cython.longlong) -> cython.ulonglong:
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


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _signed(bits: cython.ulonglong) -> cython.longlong:
    """Return the signed integer of the same 64 bits."""
    sign: cython.ulonglong = 0x8000_0000_0000_0000
    return (bits ^ sign) - sign


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _span(later: cython.longlong, earlier: cython.longlong) -> cython.longlong:
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
        hashes[i] = _mixed(value[i])
    return result.reshape(values.shape)


@cython.final
@cython.cclass
class Index:
    """Where each 64-bit key is kept: open addressing with triangular probing.

    Memory is 4 bytes a place. Places are doubled, and removed keys swept out, where more of them are used
    than ``load``; the emptier they are, the fewer tries a key takes.
    """

    keys: cython.longlong[::1]  # by slot
    places: cython.int[::1]  # slot, or what else each place holds
    factor: cython.ulonglong
    shift: cython.int
    mask: cython.longlong
    used: cython.longlong  # places that are not empty
    limit: cython.longlong  # used at most
    load: cython.double

    def __init__(self, load: float):
        self.load = load
        self.factor = _FACTOR
        self._make(_SMALLEST_BITS)

    def _make(self, bits: cython.int):
        self.shift = 64 - bits
        self.mask = (1 << bits) - 1
        self.limit = int(self.load * (1 << bits))
        self.used = 0
        self.places = memoryview(np.full(1 << bits, -1, dtype=np.int32))

    def rebuild(self, more: cython.longlong):
        """Sweep out removed keys, and make room for ``more`` keys."""
        before: cython.int[::1] = self.places
        held: cython.longlong = 0
        i: cython.Py_ssize_t
        for i in range(len(before)):
            if before[i] >= 0:
                held += 1
        self._make(max(_SMALLEST_BITS, math.ceil(math.log2(max(1, held + more) * 1.5 / self.load))))
        for i in range(len(before)):
            if before[i] >= 0:
                self._insert(before[i])

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _home(self, key: cython.longlong) -> cython.longlong:
        """Return the place where a key is if no other is there."""
        full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
        return ((((key & full) * self.factor) & full) >> self.shift) & self.mask

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def find(self, key: cython.longlong) -> cython.longlong:
        """Return the place of a key, or one at which it can be put if it is not there."""
        place: cython.longlong = self._home(key)
        step: cython.longlong = 0
        free: cython.longlong = -1
        slot: cython.int = self.places[place]
        while slot != _EMPTY:
            if slot >= 0:
                if self.keys[slot] == key:
                    return place
            elif free < 0:
                free = place
            step += 1
            place = (place + step) & self.mask
            slot = self.places[place]
        return free if free >= 0 else place

    def insert(self, slots, more: cython.longlong):
        """Keep slots, int64 (n,), whose keys are not there yet, with room for ``more`` keys."""
        self.rebuild(len(slots) + more)
        slot: cython.longlong
        for slot in slots.tolist():
            self._insert(slot)

    def probes(self, key: cython.longlong) -> int:
        """Return how many places are looked at to find a key."""
        found: cython.longlong = self.find(key)
        place: cython.longlong = self._home(key)
        step: cython.longlong = 0
        while place != found:
            step += 1
            place = (place + step) & self.mask
        return step + 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def put(self, place: cython.longlong, slot: cython.longlong) -> cython.void:
        """Keep a slot at a place that ``find`` gave for its key."""
        if self.places[place] == _EMPTY:
            self.used += 1
        self.places[place] = slot

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def remove(self, key: cython.longlong) -> cython.void:
        """Take out a key that is there."""
        self.places[self.find(key)] = _REMOVED

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _insert(self, slot: cython.longlong) -> cython.void:
        """Keep a slot; its key is not there yet."""
        self.put(self.find(self.keys[slot]), slot)

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def load_ahead(self, key: cython.longlong) -> cython.void:
        """Begin to load the place of a key into the processor's cache."""
        if cython.compiled:  # pragma: no cover
            prefetch(cython.address(self.places[self._home(key)]))


@cython.final
@cython.cclass
class Columns:
    """What applying at most ``AT_ONCE`` events showed: counts, and columns in the order of the events.

    Attributions are numbers of label sets, of which there is one for each entry of the column beside it.
    """

    allocations: cython.longlong
    sampled_allocations: cython.longlong
    accesses: cython.longlong
    unknown_accesses: cython.longlong
    unknown_evictions: cython.longlong
    time_regressions: cython.longlong
    unknown_reasons: cython.longlong
    replacements: cython.longlong
    stores: cython.longlong
    lookups: cython.longlong  # allocations and accesses of known content
    evictions: cython.longlong[::1]  # by reason
    # How much there is in each column.
    gap_count: cython.Py_ssize_t
    first_count: cython.Py_ssize_t
    unobserved_count: cython.Py_ssize_t
    used_count: cython.Py_ssize_t
    looked_up_count: cython.Py_ssize_t
    begun_count: cython.Py_ssize_t
    ended_count: cython.Py_ssize_t
    evicted_count: cython.Py_ssize_t
    change_count: cython.Py_ssize_t
    reuse_gap: cython.longlong[::1]  # access to access, ns
    gap_of: cython.ushort[::1]
    first_reuse: cython.longlong[::1]  # allocation to first access, ns
    first_of: cython.ushort[::1]
    unobserved_of: cython.ushort[::1]  # accesses of generations that sampling leaves out
    used: cython.longlong[::1]  # content key or generation that was in use
    looked_up: cython.longlong[::1]  # content keys for the miss-ratio curve
    begun_ts: cython.longlong[::1]
    begun_of: cython.ushort[::1]
    ended_ts: cython.longlong[::1]
    ended_of: cython.ushort[::1]
    # Of each generation that was evicted and that sampling observes.
    lifetime: cython.longlong[::1]
    idle: cython.longlong[::1]
    access_count: cython.longlong[::1]
    evicted_of: cython.ushort[::1]
    evicted_block: cython.longlong[::1]
    evicted_ts: cython.longlong[::1]
    evicted_reason: cython.uchar[::1]
    history: cython.longlong[:, ::1]  # last access times, oldest first, right-aligned
    # Content keys that came into the cache or left it.
    change_key: cython.longlong[::1]
    change_ts: cython.longlong[::1]
    change_begins: cython.uchar[::1]
    change_of: cython.ushort[::1]
    arrays = cython.declare(dict)

    def __init__(self):
        wide = (
            *("reuse_gap", "first_reuse", "used", "looked_up", "begun_ts", "ended_ts"),
            *("lifetime", "idle", "access_count", "evicted_block", "evicted_ts"),
        )
        narrow = ("gap_of", "first_of", "unobserved_of", "begun_of", "ended_of", "evicted_of")
        arrays = {name: np.empty(AT_ONCE, dtype=np.int64) for name in wide}
        arrays |= {name: np.empty(AT_ONCE, dtype=np.uint16) for name in narrow}
        arrays |= {name: np.empty(2 * AT_ONCE, dtype=np.int64) for name in ("change_key", "change_ts")}
        arrays["change_begins"] = np.empty(2 * AT_ONCE, dtype=np.uint8)
        arrays["change_of"] = np.empty(2 * AT_ONCE, dtype=np.uint16)
        arrays["evicted_reason"] = np.empty(AT_ONCE, dtype=np.uint8)
        arrays["evictions"] = np.empty(len(REASONS), dtype=np.int64)
        self.arrays = arrays
        self.evictions = memoryview(arrays["evictions"])
        self.reuse_gap = memoryview(arrays["reuse_gap"])
        self.gap_of = memoryview(arrays["gap_of"])
        self.first_reuse = memoryview(arrays["first_reuse"])
        self.first_of = memoryview(arrays["first_of"])
        self.unobserved_of = memoryview(arrays["unobserved_of"])
        self.used = memoryview(arrays["used"])
        self.looked_up = memoryview(arrays["looked_up"])
        self.begun_ts = memoryview(arrays["begun_ts"])
        self.begun_of = memoryview(arrays["begun_of"])
        self.ended_ts = memoryview(arrays["ended_ts"])
        self.ended_of = memoryview(arrays["ended_of"])
        self.lifetime = memoryview(arrays["lifetime"])
        self.idle = memoryview(arrays["idle"])
        self.access_count = memoryview(arrays["access_count"])
        self.evicted_of = memoryview(arrays["evicted_of"])
        self.evicted_block = memoryview(arrays["evicted_block"])
        self.evicted_ts = memoryview(arrays["evicted_ts"])
        self.evicted_reason = memoryview(arrays["evicted_reason"])
        self.change_key = memoryview(arrays["change_key"])
        self.change_ts = memoryview(arrays["change_ts"])
        self.change_begins = memoryview(arrays["change_begins"])
        self.change_of = memoryview(arrays["change_of"])
        self._make_history(1)
        self._empty()

    def _make_history(self, depth: cython.Py_ssize_t):
        self.arrays["history"] = np.zeros((AT_ONCE, depth), dtype=np.int64)
        self.history = memoryview(self.arrays["history"])

    def _see_to_history(self, depth: cython.Py_ssize_t):
        if self.history.shape[1] != depth:
            self._make_history(depth)

    def _empty(self):
        self.allocations = self.sampled_allocations = self.accesses = self.stores = self.lookups = 0
        self.unknown_accesses = self.unknown_evictions = self.time_regressions = 0
        self.unknown_reasons = self.replacements = 0
        self.gap_count = self.first_count = self.unobserved_count = self.used_count = 0
        self.looked_up_count = self.begun_count = self.ended_count = self.evicted_count = 0
        self.change_count = 0
        reason: cython.Py_ssize_t
        for reason in range(_REASONS):
            self.evictions[reason] = 0

    def _column(self, name: str, count: cython.Py_ssize_t):
        return self.arrays[name][:count].copy()

    def take(self, attributed: bool, records: bool) -> tuple:
        """Return counts by name, and columns by name, those alone that hold anything."""
        counts: dict = {
            "allocations": self.allocations,
            "sampled_allocations": self.sampled_allocations,
            "accesses": self.accesses,
            "unknown_accesses": self.unknown_accesses,
            "unknown_evictions": self.unknown_evictions,
            "time_regressions": self.time_regressions,
            "unknown_reasons": self.unknown_reasons,
            "replacements": self.replacements,
            "stores": self.stores,
            "lookups": self.lookups,
        }
        names: list = [("evictions", _REASONS)] if self.ended_count else []
        if self.gap_count:
            names.append(("reuse_gap", self.gap_count))
        if self.first_count:
            names.append(("first_reuse", self.first_count))
        if self.used_count:
            names.append(("used", self.used_count))
        if self.looked_up_count:
            names.append(("looked_up", self.looked_up_count))
        if self.evicted_count:
            names += [(name, self.evicted_count) for name in ("lifetime", "idle", "access_count")]
            if records:
                of_records = ("evicted_block", "evicted_ts", "evicted_reason", "history")
                names += [(name, self.evicted_count) for name in of_records]
        if self.change_count:
            names += [(name, self.change_count) for name in ("change_key", "change_ts", "change_begins")]
        if attributed:
            names += [
                ("gap_of", self.gap_count),
                ("first_of", self.first_count),
                ("unobserved_of", self.unobserved_count),
                ("begun_ts", self.begun_count),
                ("begun_of", self.begun_count),
                ("ended_ts", self.ended_count),
                ("ended_of", self.ended_count),
                ("evicted_of", self.evicted_count),
                ("change_of", self.change_count),
            ]
        return counts, {name: self._column(name, count) for name, count in names}


_spare_columns: list = []  # one for each thread that applies events at this moment, made once


@cython.final
@cython.cclass
class Table:
    """The blocks of one cache: a row of 64-bit integers for each slot.

    Ids that are small and dense (slot streams) are slots. Once an id comes that is far beyond the number of
    blocks (content streams), slots are given out, and an index says which holds which id.

    Only one thread may be in it at a time; large frames are applied without the GIL.

    Args:
        depth: Access times kept of a block, at least 1.
        seed: The table's part in the sampling hash.
        sampled_below: A generation is observed if its hash is below; 2**64 observes all.
    """

    rows_array = cython.declare(object, visibility="readonly")  # int64 (slots, 2 + times)
    ids_array = cython.declare(object, visibility="readonly")  # by slot, int64, in content streams
    keys_array = cython.declare(object, visibility="readonly")  # content key by slot, int64, in slot streams
    attribution_array = cython.declare(object, visibility="readonly")  # label set by slot, uint16
    live_count = cython.declare(cython.longlong, visibility="readonly")
    by_hash = cython.declare(cython.bint, visibility="readonly")  # ids are content hashes
    index: Index
    rows: cython.longlong[:, ::1]  # birth, access count, and last access times
    slots: cython.longlong
    mask: cython.longlong  # access i is at place i & mask of the times; the birth at -1 & mask until then
    depth: cython.longlong
    seed: cython.longlong
    sampled_below: cython.ulonglong
    all_sampled: cython.bint
    ids: cython.longlong[::1]
    free: cython.longlong[::1]  # slots given back, a stack, in content streams
    free_count: cython.longlong
    next: cython.longlong  # first slot never used, in content streams
    begun: cython.longlong[::1]  # slots used since the last clear, in slot streams
    begun_count: cython.longlong  # -1 where looking at each slot costs no more
    key_of: cython.longlong[::1]
    has_keys: cython.bint
    attribution_of: cython.ushort[::1]
    is_attributed: cython.bint
    busy: cython.bint
    # Of the frame that is applied.
    ops: cython.const[cython.uchar][::1]
    blocks: cython.const[cython.longlong][::1]
    ts: cython.const[cython.longlong][::1]
    reasons: cython.const[cython.uchar][::1]
    keys: cython.const[cython.longlong][::1]
    labels: cython.const[cython.ushort][::1]
    label_sets: cython.const[cython.ushort][::1]
    given_reasons: cython.bint
    given_keys: cython.bint
    given_labels: cython.bint
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
        self.by_hash = self.has_keys = self.is_attributed = self.busy = False
        self.index = Index(_LOAD)
        self.free_count = self.next = self.begun_count = 0
        self.slots = 0
        nothing = np.empty(0, dtype=np.int64)
        self.ids_array = self.keys_array = nothing
        self.attribution_array = np.empty(0, dtype=np.uint16)
        self.ids = self.free = self.begun = self.key_of = memoryview(nothing)
        self.attribution_of = memoryview(self.attribution_array)
        self.rows_array = np.empty((0, 2 + self.mask + 1), dtype=np.int64)
        self._widen(_SMALLEST)

    # Room

    def _widen(self, slots: cython.longlong):
        """Hold ``slots`` slots, more than there are."""
        held: cython.longlong = self.slots
        rows = np.zeros((slots, self.rows_array.shape[1]), dtype=np.int64)
        rows[:held] = self.rows_array
        rows[held:, _COUNT] = NOT_LIVE
        self.rows_array = rows
        self.rows = memoryview(rows)
        self.slots = slots
        if self.by_hash:
            self.ids_array = _widened(self.ids_array, slots)
            self.ids = self.index.keys = memoryview(self.ids_array)
            self.free = memoryview(_widened(np.asarray(self.free), slots))
        else:
            begun = np.empty(slots // _BEGUN_SHARE, dtype=np.int64)
            if self.begun_count > 0:
                begun[: self.begun_count] = np.asarray(self.begun)[: self.begun_count]
            self.begun = memoryview(begun)
        if self.has_keys and not self.by_hash:
            self.keys_array = _widened(self.keys_array, slots)
            self.key_of = memoryview(self.keys_array)
        if self.is_attributed:
            self.attribution_array = _widened(self.attribution_array, slots)
            self.attribution_of = memoryview(self.attribution_array)

    def _grow(self, needed: cython.longlong, most: cython.longlong):
        """Hold as many slots as are needed, and some more up to ``most``."""
        if needed > self.slots:
            size: cython.longlong = self.slots
            while size < needed:
                size *= 2
            self._widen(max(needed, min(size, most)))

    def _make_room(self, event: cython.Py_ssize_t, end: cython.Py_ssize_t):
        """Make room for the block that an event allocates, and for those after it as far as is worth it."""
        if not self.by_hash:
            ops = np.asarray(self.ops[event:end])
            allocated = np.asarray(self.blocks[event:end])[(ops == _ALLOC) | (ops >= _STORE)]
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
        self.ids_array = np.arange(self.slots, dtype=np.int64)
        self.ids = self.index.keys = memoryview(self.ids_array)
        self.index.insert(live, 0)
        vacant = np.flatnonzero(self.rows_array[:, _COUNT] < 0)
        free = np.empty(self.slots, dtype=np.int64)
        free[: len(vacant)] = vacant
        self.free = memoryview(free)
        self.free_count = len(vacant)
        self.next = self.slots
        self.by_hash = True

    def keep_keys(self):
        """Keep a content key for each slot from now on."""
        if not self.has_keys:
            self.has_keys = True
            self.keys_array = np.zeros(self.slots, dtype=np.int64)
            self.key_of = memoryview(self.keys_array)

    def keep_attribution(self):
        """Keep the label set of each block from now on."""
        if not self.is_attributed:
            self.is_attributed = True
            self.attribution_array = np.zeros(self.slots, dtype=np.uint16)
            self.attribution_of = memoryview(self.attribution_array)

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
            slots[i] = slot if slot >= 0 and self.rows[slot, _COUNT] != _NOT_LIVE else -1
        return result

    def probes(self, ids):
        """Return how many places are looked at to find each id, of a content stream, int64 (n,)."""
        return np.array([self.index.probes(block) for block in ids.tolist()], dtype=np.int64)

    def live_slots(self):
        """Return the slots that hold a block, ascending, int64."""
        counts = self.rows_array[:, _COUNT]
        if self.by_hash:
            return np.flatnonzero(counts[: self.next] >= 0)
        if self.begun_count < 0:
            return np.flatnonzero(counts >= 0)
        begun = np.unique(np.asarray(self.begun)[: self.begun_count])
        return begun[counts[begun] >= 0]

    def clear(self):
        """End every generation."""
        self.rows_array[self.live_slots(), _COUNT] = NOT_LIVE
        self.live_count = self.begun_count = 0
        if self.by_hash:
            self.index = Index(_LOAD)
            self.index.keys = self.ids
            self.free_count = self.next = 0

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
        records: bool,
        changes: bool,
        looked_up_below: int,
        counted_since: int,
    ):
        """Take a frame, to be applied by ``apply``.

        Args:
            ops: Operations, uint8 (n,).
            blocks: Block ids, int64 (n,).
            ts: Times, ns, int64 (n,).
            reasons: Reason codes, uint8 (n,), or None where none is given.
            keys: Content keys, int64 (n,), or None where none is given.
            labels: Place in ``label_sets`` of each event's labels, uint16 (n,), or None where all are 0.
            label_sets: Numbers of label sets, uint16 (k,), or None where nothing has labels.
            records: Show what a record of each eviction needs.
            changes: Show which content keys come and go.
            looked_up_below: Show lookups of content keys whose hash is below; 0 shows none, 2**64 all.
            counted_since: Start of the open window, ns: blocks already shown as used since then are skipped.

        Raises:
            ValueError: If columns differ in length, or labels are out of range.
        """
        count: cython.Py_ssize_t = len(ops)
        if self.busy:
            raise RuntimeError("two threads apply events to one table")
        for column in (blocks, ts, reasons, keys, labels):
            if column is not None and len(column) != count:
                raise ValueError(f"columns of {count} and {len(column)} events")
        if label_sets is not None and not len(label_sets):
            raise ValueError("no label sets")
        if keys is not None and not self.by_hash:
            self.keep_keys()
        if label_sets is not None:
            self.keep_attribution()
        self.ops, self.blocks, self.ts = memoryview(ops), memoryview(blocks), memoryview(ts)
        self.given_reasons, self.given_keys = reasons is not None, keys is not None
        self.given_labels = labels is not None and label_sets is not None
        self.reasons = memoryview(ops if reasons is None else reasons)
        self.keys = memoryview(blocks if keys is None else keys)
        if self.given_labels:
            if int(labels.max(initial=0)) >= len(label_sets):
                raise ValueError("a label beyond the label sets")
            self.labels, self.label_sets = memoryview(labels), memoryview(label_sets)
        self.records, self.changes = records, changes
        self.all_looked_up = looked_up_below > 2**64 - 1
        self.looked_up_below = looked_up_below & 2**64 - 1
        self.counted_since = counted_since

    def apply(self, start: int):
        """Apply events from one on, up to a clear, the end, or ``AT_ONCE`` of them.

        Returns:
            The event at which it stopped, and the counts and columns of what was shown on the way
            (``Columns.take``).
        """
        end: cython.Py_ssize_t = min(len(self.ops), start + AT_ONCE)
        at: cython.Py_ssize_t = start
        self.busy = True
        self.columns = _spare_columns.pop() if _spare_columns else Columns()
        try:
            if self.records:
                self.columns._see_to_history(self.depth)
            while True:
                if end - at >= _RELEASING:
                    with cython.nogil:
                        at = self._run(at, end)
                else:
                    at = self._run(at, end)
                if at == end or self.ops[at] == _CLEAR:
                    break
                self._make_room(at, end)
            counts, columns = self.columns.take(self.is_attributed, self.records)
            return at, counts, columns
        finally:
            self.columns._empty()
            _spare_columns.append(self.columns)
            self.busy = False

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _run(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
        """Apply events up to a clear, or to one for whose block there is no room; return which."""
        event: cython.Py_ssize_t
        for event in range(start, end):
            self._load_ahead(event, end)
            if not self._apply_one(event):
                return event
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
        if op == _CLEAR:
            return False
        place: cython.longlong = -1
        slot: cython.longlong
        if self.by_hash:
            place = self.index.find(block)
            slot = self.index.places[place]
        else:
            slot = block if 0 <= block < self.slots else -1
        is_live: cython.bint = slot >= 0 and self.rows[slot, _COUNT] != _NOT_LIVE
        if op == _ALLOC or (op >= _STORE and not is_live):
            if slot < 0:
                if not self.by_hash or self.index.used >= self.index.limit:
                    return False
                slot = self._vacant_slot()
                if slot < 0:
                    return False
                self.ids[slot] = block
                self.index.put(place, slot)
            self._allocate(event, slot, block, time, is_live)
        elif not is_live:
            if op == _ACCESS:
                self.columns.unknown_accesses += 1
            else:
                self.columns.unknown_evictions += 1
        elif op == _EVICT:
            self._evict(event, slot, block, time)
            if self.by_hash:
                self.index.places[place] = _REMOVED
                self.free[self.free_count] = slot
                self.free_count += 1
        else:
            self._access(slot, block, time)
        self.columns.stores += op >= _STORE
        return True

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _slot(self, block: cython.longlong) -> cython.longlong:
        """Return the slot that a block has, whether it is live or not; a negative number if none."""
        if self.by_hash:
            return self.index.places[self.index.find(block)]
        return block if 0 <= block < self.slots else -1

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
        of_block: cython.longlong = _signed(_mixed(block ^ self.seed))
        return _mixed(of_block ^ birth) < self.sampled_below

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _interval(self, later: cython.longlong, earlier: cython.longlong) -> cython.longlong:
        """Return the time between, ns; 0, and counted, where the later time is the earlier one."""
        if later < earlier:
            self.columns.time_regressions += 1
            return 0
        return _span(later, earlier)

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _last_use(self, slot: cython.longlong) -> cython.longlong:
        """Return the time of the last access of a live block, or else of its allocation, ns."""
        return self.rows[slot, _TIMES + ((self.rows[slot, _COUNT] - 1) & self.mask)]

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _key(self, slot: cython.longlong, block: cython.longlong) -> cython.longlong:
        """Return the content key of a live block, 0 if it is unknown."""
        if self.by_hash and self._is_content(block):
            return block
        return self.key_of[slot] if self.has_keys and not self.by_hash else 0

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _is_content(self, block: cython.longlong) -> cython.bint:
        """Return whether an id can only be a content hash."""
        return block < 0 or block >= _MOST_SLOTS

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
        content: cython.bint = self.by_hash and self._is_content(block)
        key: cython.longlong = 0
        if content:
            key = block
        elif self.given_keys and not self.by_hash:
            key = self.keys[event]
        attribution: cython.ushort = 0
        if self.given_labels:
            attribution = self.label_sets[self.labels[event]]
        if is_live:
            before: cython.longlong = self._key(slot, block)
            self._end(event, slot, block, time, _REPLACED)
            self.columns.replacements += 1
            if before != key:
                self._change(before, time, False, self._attribution(slot))
                self._change(key, time, True, attribution)
        else:
            self.live_count += 1
            self._change(key, time, True, attribution)
            if not self.by_hash and self.begun_count >= 0:
                self._note_begun(slot)
        if self.has_keys and not self.by_hash:
            self.key_of[slot] = key
        if self.is_attributed:
            self.attribution_of[slot] = attribution
            self.columns.begun_ts[self.columns.begun_count] = time
            self.columns.begun_of[self.columns.begun_count] = attribution
            self.columns.begun_count += 1
        self.columns.allocations += 1
        self.columns.sampled_allocations += self._is_sampled(block, time)
        self.rows[slot, _BIRTH] = time
        self.rows[slot, _COUNT] = 0
        self.rows[slot, _TIMES + (-1 & self.mask)] = time
        self._use(block, time, content)
        self._look_up(key)

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _access(self, slot: cython.longlong, block: cython.longlong, time: cython.longlong) -> cython.void:
        """Count a hit of a live block, and observe the time since it was last used."""
        birth: cython.longlong = self.rows[slot, _BIRTH]
        count: cython.longlong = self.rows[slot, _COUNT]
        last: cython.longlong = self.rows[slot, _TIMES + ((count - 1) & self.mask)]
        interval: cython.longlong = self._interval(time, last)
        if not self._is_sampled(block, birth):
            if self.is_attributed:
                self.columns.unobserved_of[self.columns.unobserved_count] = self.attribution_of[slot]
                self.columns.unobserved_count += 1
        elif count:
            self.columns.reuse_gap[self.columns.gap_count] = interval
            self.columns.gap_of[self.columns.gap_count] = self._attribution(slot)
            self.columns.gap_count += 1
        else:
            self.columns.first_reuse[self.columns.first_count] = interval
            self.columns.first_of[self.columns.first_count] = self._attribution(slot)
            self.columns.first_count += 1
        self.columns.accesses += 1
        self.rows[slot, _COUNT] = count + 1
        self.rows[slot, _TIMES + (count & self.mask)] = time
        if not self.counted_since <= last <= time:
            self._use(block, birth, self.by_hash and self._is_content(block))
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
            self.columns.unknown_reasons += 1
        self._end(event, slot, block, time, reason)
        self._change(self._key(slot, block), time, False, self._attribution(slot))
        self.rows[slot, _COUNT] = _NOT_LIVE
        self.live_count -= 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _end(
        self,
        event: cython.Py_ssize_t,
        slot: cython.longlong,
        block: cython.longlong,
        time: cython.longlong,
        reason: cython.int,
    ) -> cython.void:
        """Observe the end of a generation."""
        birth: cython.longlong = self.rows[slot, _BIRTH]
        idle: cython.longlong = self._interval(time, self._last_use(slot))
        lifetime: cython.longlong = self._interval(time, birth)
        self.columns.evictions[reason] += 1
        if self.is_attributed:
            self.columns.ended_ts[self.columns.ended_count] = time
            self.columns.ended_of[self.columns.ended_count] = self.attribution_of[slot]
        self.columns.ended_count += 1
        if self._is_sampled(block, birth):
            at: cython.Py_ssize_t = self.columns.evicted_count
            self.columns.lifetime[at] = lifetime
            self.columns.idle[at] = idle
            self.columns.access_count[at] = self.rows[slot, _COUNT]
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
        count: cython.longlong = self.rows[slot, _COUNT]
        back: cython.longlong
        for back in range(self.depth):
            time: cython.longlong = 0
            if back < count:
                time = self.rows[slot, _TIMES + ((count - 1 - back) & self.mask)]
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
    def _note_begun(self, slot: cython.longlong) -> cython.void:
        """Note a slot that is in use since the last clear, until they are many."""
        if self.begun_count < len(self.begun):
            self.begun[self.begun_count] = slot
            self.begun_count += 1
        else:
            self.begun_count = -1

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
    def _use(self, block: cython.longlong, birth: cython.longlong, content: cython.bint) -> cython.void:
        """Show what was in use: a content key or, in slot streams, a number of the generation's own."""
        full: cython.ulonglong = 0xFFFF_FFFF_FFFF_FFFF
        scatter: cython.ulonglong = 0x1E37_79B9_7F4A_7C15
        used: cython.longlong = block
        if not content:
            used = _signed((((block & full) * scatter) + (birth & full)) & full)
        self.columns.used[self.columns.used_count] = used
        self.columns.used_count += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _look_up(self, key: cython.longlong) -> cython.void:
        """Count a lookup of a known content key, and show it if the miss-ratio curve follows it."""
        if key:
            self.columns.lookups += 1
            if self.all_looked_up or (self.looked_up_below and _mixed(key) < self.looked_up_below):
                self.columns.looked_up[self.columns.looked_up_count] = key
                self.columns.looked_up_count += 1

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _load_ahead(self, event: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.void:
        """Begin to load what later events need, so that memory answers while others are applied."""
        if cython.compiled:  # pragma: no cover
            later: cython.Py_ssize_t = event + _AHEAD
            if later >= end:
                return
            slot: cython.longlong = self.blocks[later]
            if self.by_hash:
                if later + _AHEAD < end:
                    self.index.load_ahead(self.blocks[later + _AHEAD])
                slot = self.index.places[self.index._home(slot)]
            if 0 <= slot < self.slots:
                if self.by_hash:
                    prefetch(cython.address(self.ids[slot]))
                prefetch(cython.address(self.rows[slot, 0]))
                prefetch(cython.address(self.rows[slot, _TIMES + self.mask]))
                if self.has_keys and not self.by_hash:
                    prefetch(cython.address(self.key_of[slot]))
                if self.is_attributed:
                    prefetch(cython.address(self.attribution_of[slot]))


def _widened(column, slots: int):
    """Return a column by slot with zeros behind it."""
    wider = np.zeros(slots, dtype=column.dtype)
    wider[: len(column)] = column
    return wider


@cython.final
@cython.cclass
class FenwickTree:
    """Counts at places, and their sums up to any place, each in the logarithm of the places."""

    nodes: cython.int[::1]  # node n counts what lies at as many places up to n as its lowest bit says

    def __init__(self, flags):
        before = np.concatenate([[0], np.cumsum(flags)])
        ends = np.arange(len(flags) + 1)
        self.nodes = memoryview((before[ends] - before[ends & (ends - 1)]).astype(np.int32))

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def add(self, place: cython.longlong, change: cython.int) -> cython.void:
        """Add to the count at a place."""
        node: cython.longlong = place + 1
        while node < len(self.nodes):
            self.nodes[node] += change
            node += node & -node

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def before(self, place: cython.longlong) -> cython.longlong:
        """Return the sum of the counts before a place."""
        total: cython.longlong = 0
        while place > 0:
            total += self.nodes[place]
            place &= place - 1
        return total


@cython.final
@cython.cclass
class PrematureEvictions:
    """Remembers the last evictions of content keys, and shows which allocations bring one back.

    A key is remembered until it comes back, until ``most`` evictions have followed its own, or until
    ``longest_ns`` have passed. Within these bounds it is exact.

    Args:
        most: Keys remembered; memory is 25 to 50 bytes each and grows as they come.
        longest_ns: How long they are remembered.
    """

    most: cython.longlong
    longest_ns: cython.longlong
    evictions: cython.longlong  # so far; the place of one in the ring is its number modulo the ring's length
    mask: cython.longlong
    index: Index
    tree: FenwickTree  # of the places that hold a key that has not come back
    key_array = cython.declare(object)
    ts_array = cython.declare(object)
    key: cython.longlong[::1]
    ts: cython.longlong[::1]  # of the eviction, or that there is none
    returned: cython.longlong[:, ::1]  # where ``apply`` writes what came back

    def __init__(self, most: int, longest_ns: int):
        self.most = most
        self.longest_ns = longest_ns
        self._start()

    def _start(self):
        self.evictions = 0
        self._hold(_SMALLEST)
        self.tree = FenwickTree(np.zeros(_SMALLEST, dtype=np.int32))

    def clear(self):
        """Forget everything: the cache was emptied, which no memory would have prevented."""
        if self.evictions:
            self._start()

    @property
    def places(self) -> int:
        """Return how many evictions there is room for."""
        return self.mask + 1

    def _hold(self, places: int):
        """Make an empty ring and its index; the tree is the caller's to make."""
        self.mask = places - 1
        self.key_array = np.zeros(places, dtype=np.int64)
        self.ts_array = np.full(places, _NEVER, dtype=np.int64)
        self.index = Index(0.375)
        self.key = self.index.keys = memoryview(self.key_array)
        self.ts = memoryview(self.ts_array)

    def _see_to_room(self, more: int):
        """Make room for ``more`` evictions."""
        wanted = min(self.evictions + more, self.most)
        if wanted > self.mask + 1:
            held = np.flatnonzero(self.ts_array != _NEVER)
            key, ts = self.key_array[held], self.ts_array[held]
            number = self.evictions - 1 - ((self.evictions - 1 - held) & self.mask)
            self._hold(1 << (wanted - 1).bit_length())
            place = number & self.mask
            self.key_array[place] = key
            self.ts_array[place] = ts
            self.tree = FenwickTree(self.ts_array != _NEVER)
            self.index.insert(place, more)
        elif self.index.used + more > self.index.limit:
            self.index.rebuild(more)

    def apply(self, keys, ts, begins):
        """Take in content keys that came into a cache or left it, in order.

        Args:
            keys: Content keys, int64 (k,).
            ts: Times, ns, int64 (k,).
            begins: 1 where the key came in, 0 where it was evicted, uint8 (k,).

        Returns:
            Of the m keys that came back, three columns, int64 (m,): the time from eviction to return, ns;
            how many keys evicted later had not come back by then, at least 1; and which of the changes it is.
        """
        count: cython.Py_ssize_t = len(keys)
        evictions: cython.Py_ssize_t = count - int(np.count_nonzero(begins))
        if not evictions and not self.evictions:
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, nothing
        self._see_to_room(evictions)
        returned = np.empty((3, count), dtype=np.int64)
        key: cython.const[cython.longlong][::1] = memoryview(keys)
        times: cython.const[cython.longlong][::1] = memoryview(ts)
        comes: cython.const[cython.uchar][::1] = memoryview(begins)
        self.returned = memoryview(returned)
        returns: cython.Py_ssize_t = 0
        row: cython.Py_ssize_t
        with cython.nogil:
            for row in range(count):
                if row + _KEYS_AHEAD < count:
                    self.index.load_ahead(key[row + _KEYS_AHEAD])
                if not comes[row]:
                    self._evict(key[row], times[row])
                elif self._return(key[row], times[row], returns):
                    self.returned[2, returns] = row
                    returns += 1
        return returned[0, :returns], returned[1, :returns], returned[2, :returns]

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _return(
        self,
        key: cython.longlong,
        time: cython.longlong,
        at: cython.Py_ssize_t,
    ) -> cython.bint:
        """Take in a key that came; return whether it is a return, and write which one."""
        place: cython.longlong = self.index.find(key)
        evicted: cython.longlong = self.index.places[place]
        if evicted < 0:
            return False
        self.index.places[place] = _REMOVED
        then: cython.longlong = self.ts[evicted]
        self.ts[evicted] = _NEVER
        since: cython.longlong = ((self.evictions - evicted - 1) & self.mask) + 1
        passed: cython.longlong = _span(time, then) if time > then else 0
        within: cython.bint = since <= self.most and passed <= self.longest_ns
        if within:
            end: cython.longlong = self.evictions & self.mask
            later: cython.longlong = self.tree.before(end) - self.tree.before(evicted)
            if evicted >= end:
                later += self.tree.before(self.mask + 1)
            self.returned[0, at] = passed
            self.returned[1, at] = later - 1 if later > 2 else 1
        self.tree.add(evicted, -1)
        return within

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _evict(self, key: cython.longlong, time: cython.longlong) -> cython.void:
        """Remember an eviction, in the place of the oldest one."""
        at: cython.longlong = self.evictions & self.mask
        if self.ts[at] != _NEVER:
            self.index.remove(self.key[at])
            self.tree.add(at, -1)
        place: cython.longlong = self.index.find(key)
        before: cython.longlong = self.index.places[place]
        if before >= 0:  # evicted anew
            self.ts[before] = _NEVER
            self.tree.add(before, -1)
        self.tree.add(at, 1)
        self.key[at] = key
        self.ts[at] = max(time, _NEVER + 1)
        self.index.put(place, at)
        self.evictions += 1


@cython.final
@cython.cclass
class LruStack:
    """Content keys by the time of their last access, and how many others lie between two accesses of one.

    Each access has a place of its own, one after the other; when they are used up, the keys are put together
    at the first ones. Takes about 100 bytes a key.

    Source: R. Mattson and others, "Evaluation techniques for storage hierarchies", 1970.

    Example:
        >>> import numpy as np
        >>> stack = LruStack()
        >>> stack.access(np.array([1, 2, 3, 1]), 10, 10)
        (4, array([2]))
    """

    held = cython.declare(cython.longlong, visibility="readonly")  # keys
    again = cython.declare(cython.longlong, visibility="readonly")  # those of them accessed more than once
    next: cython.longlong  # place of the next access
    first: cython.longlong  # no last access is at a place before it
    key_array = cython.declare(object)
    is_last_array = cython.declare(object)
    is_again_array = cython.declare(object)
    key: cython.longlong[::1]  # by place
    is_last: cython.uchar[::1]
    is_again: cython.uchar[::1]
    tree: FenwickTree  # of the last accesses
    index: Index

    def __init__(self):
        self._hold(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint8))

    def _hold(self, keys, again):
        """Put keys, oldest access first, at the first places."""
        held = len(keys)
        places = 4 * max(256, 1 << held.bit_length())
        self.key_array = _widened(keys, places)
        self.is_last_array = np.zeros(places, dtype=np.uint8)
        self.is_last_array[:held] = 1
        self.is_again_array = _widened(again, places)
        self.key = memoryview(self.key_array)
        self.is_last = memoryview(self.is_last_array)
        self.is_again = memoryview(self.is_again_array)
        self.tree = FenwickTree(self.is_last_array)
        self.index = Index(0.375)
        self.index.keys = self.key
        self.index.insert(np.arange(held), 0)
        self.next = self.held = held
        self.first = 0
        self.again = int(np.count_nonzero(again))

    def keys(self):
        """Return the keys, the one accessed longest ago first, int64."""
        return self.key_array[self.is_last_array != 0]

    def keep(self, which):
        """Forget all of ``keys()`` but some, bool of the same shape."""
        again = self.is_again_array[self.is_last_array != 0]
        self._hold(self.keys()[which], again[which])

    def access(self, keys, room: cython.longlong, furthest: cython.longlong):
        """Take in accesses, up to one that leaves more keys than there is room for.

        Args:
            keys: What was accessed, in order, int64 (n,).
            room: Keys that there is room for.
            furthest: With more keys than these, what comes anew takes the place of the oldest.

        Returns:
            How many accesses were taken in, not always all: what is left is to be given again; and how many
            other keys were accessed between two accesses of one, int64.
        """
        if self.next == len(self.key):
            self.keep(np.ones(self.held, dtype=np.bool_))
        count: cython.Py_ssize_t = min(len(keys), len(self.key) - self.next)
        if self.index.used + count > self.index.limit:
            self.index.rebuild(count)
        accessed: cython.const[cython.longlong][::1] = memoryview(keys)
        found = np.empty(count, dtype=np.int64)
        others: cython.longlong[::1] = memoryview(found)
        distances: cython.Py_ssize_t = 0
        taken: cython.Py_ssize_t = 0
        while taken < count and self.held <= room:
            distance: cython.longlong = self._access_one(accessed[taken], furthest)
            if distance >= 0:
                others[distances] = distance
                distances += 1
            taken += 1
        return taken, found[:distances]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _access_one(self, key: cython.longlong, furthest: cython.longlong) -> cython.longlong:
        """Take in an access; return how many other keys came since the last of the same, -1 if none."""
        place: cython.longlong = self.index.find(key)
        before: cython.longlong = self.index.places[place]
        at: cython.longlong = self.next
        distance: cython.longlong = -1
        if before >= 0:
            distance = self.held - self.tree.before(before + 1)
            self.again += not self.is_again[before]
            self.is_last[before] = 0
            self.tree.add(before, -1)
        self.next += 1
        self.key[at] = key
        self.is_last[at] = 1
        self.is_again[at] = before >= 0
        self.tree.add(at, 1)
        self.index.put(place, at)
        if before < 0:
            self.held += 1
            if self.held > furthest:
                self._forget_oldest()
        return distance

    @cython.cfunc
    @cython.exceptval(check=False)
    def _forget_oldest(self) -> cython.void:
        """Forget the key that was accessed longest ago."""
        while not self.is_last[self.first]:
            self.first += 1
        self.index.remove(self.key[self.first])
        self.is_last[self.first] = 0
        self.tree.add(self.first, -1)
        self.again -= self.is_again[self.first]
        self.held -= 1


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
    mask: cython.ulonglong = (1 << bits) - 1
    ranked: cython.int = 64 - bits
    i: cython.Py_ssize_t
    for i in range(len(value)):
        hashed: cython.ulonglong = _mixed(value[i])
        place: cython.Py_ssize_t = hashed & mask
        # A rank exceeds that of the register if no bit is set before it, which it seldom does.
        rest: cython.ulonglong = hashed >> bits
        rank: cython.int = register[place]
        while rank <= ranked and rest >> (ranked - rank) == 0:
            rank += 1
        register[place] = rank


@cython.final
@cython.cclass
class IntervalBuckets:
    """Counts intervals in exponential buckets and in classic ones, which are both made of finer ones.

    A value's bucket is found by its cell, which its power of two and its first binary digits name.

    Args:
        bounds: Upper bounds of the fine buckets, ns, ascending from 0, int64 (b,).
        digits: Binary digits after the first one that name a cell.
        lowest: Lowest fine bucket of each cell from that of 1 ns on, int64; a cell has at most two.
        exponential: Exponential bucket that each fine one is a part of, but for the first, int64 (b,).
        classic: Classic bucket that each fine one is a part of, int64 (b,).
    """

    bounds: cython.const[cython.longlong][::1]
    digits: cython.int
    lowest: cython.const[cython.longlong][::1]
    exponential: cython.const[cython.longlong][::1]
    classic: cython.const[cython.longlong][::1]

    def __init__(self, bounds, digits: int, lowest, exponential, classic):
        self.bounds, self.lowest = memoryview(bounds), memoryview(lowest)
        self.exponential, self.classic = memoryview(exponential), memoryview(classic)
        self.digits = digits

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _bucket(self, value: cython.longlong) -> cython.Py_ssize_t:
        """Return the first fine bucket whose upper bound is not below a value."""
        if value < 1:
            return 0
        power: cython.int = bit_length(value) - 1
        cell: cython.longlong = power
        cell <<= self.digits
        below: cython.longlong = value & ((cython.cast(cython.longlong, 1) << power) - 1)
        if power >= self.digits:
            cell += below >> (power - self.digits)
        else:
            cell += below << (self.digits - power)
        at: cython.Py_ssize_t
        if cell < len(self.lowest):
            at = self.lowest[cell]
            return at + (value > self.bounds[at])
        at = self.lowest[len(self.lowest) - 1]
        while at < len(self.bounds) and value > self.bounds[at]:
            at += 1
        return at

    def count(self, values, classic_counts):
        """Count intervals.

        Args:
            values: Intervals, ns, none negative, int64 (n,), n at least 1.
            classic_counts: Intervals by classic bucket, int64; added to.

        Returns:
            How many are 0; the first exponential bucket that is counted in, and the intervals by bucket from
            there on, int64; the sum; the shortest and the longest, ns.
        """
        lower_bits: cython.longlong = 0xFFFF_FFFF
        value: cython.const[cython.longlong][::1] = memoryview(values)
        classic_count: cython.longlong[::1] = memoryview(classic_counts)
        low: cython.longlong = 0x7FFF_FFFF_FFFF_FFFF  # of those that are not 0
        high: cython.longlong = 0
        zeros: cython.longlong = 0
        lower: cython.longlong = 0  # the sum of the lower 32 bits, and of the others
        upper: cython.longlong = 0
        i: cython.Py_ssize_t
        for i in range(len(value)):
            if value[i] == 0:
                zeros += 1
            else:
                low = min(low, value[i])
                high = max(high, value[i])
            lower += value[i] & lower_bits
            upper += value[i] >> 32
        classic_count[self.classic[0]] += zeros
        if not high:
            return zeros, 0, np.empty(0, dtype=np.int64), 0, 0, 0
        first: cython.longlong = self.exponential[self._bucket(low)]
        last: cython.longlong = self.exponential[self._bucket(high)]
        counts = np.zeros(last - first + 1, dtype=np.int64)
        count: cython.longlong[::1] = memoryview(counts)
        at: cython.Py_ssize_t
        for i in range(len(value)):
            if value[i]:
                at = self._bucket(value[i])
                count[self.exponential[at] - first] += 1
                classic_count[self.classic[at]] += 1
        total: object = upper  # a Python integer, as a few of the longest intervals take more than 64 bits
        return zeros, first, counts, (total << 32) + lower, 0 if zeros else low, high

    def count_rows(self, values, rows, row_count: cython.Py_ssize_t):
        """Count intervals by row and fine bucket.

        Args:
            values: Intervals, ns, none negative, int64 (n,), n at least 1.
            rows: Row of each interval, below ``row_count``, uint16 (n,).
            row_count: Rows.

        Returns:
            The first fine bucket that is counted in; the intervals by row and bucket from that one on, int64;
            and of each row the shortest and longest interval, int64, and their sum.
        """
        lower_bits: cython.longlong = 0xFFFF_FFFF
        value: cython.const[cython.longlong][::1] = memoryview(values)
        row_of: cython.const[cython.ushort][::1] = memoryview(rows)
        low: cython.longlong = value[0]
        high: cython.longlong = value[0]
        i: cython.Py_ssize_t
        for i in range(len(value)):
            low = min(low, value[i])
            high = max(high, value[i])
        first: cython.Py_ssize_t = self._bucket(low)
        counts = np.zeros((row_count, self._bucket(high) - first + 1), dtype=np.int64)
        shortest = np.full(row_count, 2**63 - 1, dtype=np.int64)
        longest = np.zeros(row_count, dtype=np.int64)
        sums = np.zeros((row_count, 2), dtype=np.int64)  # their lower 32 bits, and the others
        count: cython.longlong[:, ::1] = memoryview(counts)
        least: cython.longlong[::1] = memoryview(shortest)
        most: cython.longlong[::1] = memoryview(longest)
        total: cython.longlong[:, ::1] = memoryview(sums)
        row: cython.Py_ssize_t
        for i in range(len(value)):
            row = row_of[i]
            least[row] = min(least[row], value[i])
            most[row] = max(most[row], value[i])
            total[row, 0] += value[i] & lower_bits
            total[row, 1] += value[i] >> 32
            count[row, self._bucket(value[i]) - first] += 1
        return first, counts, shortest, longest, [(upper << 32) + lower for lower, upper in sums.tolist()]


def find_rank(counts, below: cython.longlong, rank: cython.double):
    """Return the bucket that holds the value of a rank, and how many values lie below that bucket.

    Args:
        counts: Values by bucket, int64 (b,), b at least 1.
        below: Values below the first bucket.
        rank: The rank, from 0 on; beyond all values it is in the last bucket.
    """
    count: cython.const[cython.longlong][::1] = memoryview(counts)
    i: cython.Py_ssize_t = 0
    while i < len(count) - 1 and below + count[i] < rank:
        below += count[i]
        i += 1
    return i, below
