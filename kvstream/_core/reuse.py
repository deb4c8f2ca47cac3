# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, auto_pickle=False
"""How far apart the uses of a content are: premature evictions, the stack of an LRU cache, such a cache."""

try:
    import cython
except ImportError:
    from kvstream._core import _no_cython as cython

import numpy as np

if cython.compiled:  # pragma: no cover
    from cython.cimports.kvstream._core.native import ACCESS, ALLOC, EVICT, REMOVED
    from cython.cimports.kvstream._core.table import Index, span
else:
    from kvstream._core.native import ACCESS, ALLOC, EVICT, REMOVED
    from kvstream._core.table import Index, span

_SMALLEST = 16  # evictions that there is room for at first, as most caches know no contents
_FEWEST_PLACES = 1024  # of a stack that holds keys, as putting them together costs what a hundred accesses do
_NEVER = cython.declare(cython.longlong, int(np.iinfo(np.int64).min))  # eviction time where no key is
_KEYS_AHEAD = cython.declare(cython.int, 16)
_MOST_ROWS = 2**31 - 2  # of a cache, as they are numbered by 32 bits


@cython.final
@cython.cclass
class FenwickTree:
    """Counts at places, and their sums up to any place, each in the logarithm of the places."""

    nodes: cython.int[::1]  # node n counts what lies at as many places up to n as its lowest bit says

    def __init__(self, flags):
        flag: cython.const[cython.uchar][::1] = memoryview(flags.view(np.uint8))
        self.nodes = memoryview(np.zeros(len(flags) + 1, dtype=np.int32))
        node: cython.Py_ssize_t
        for node in range(1, len(self.nodes)):
            self.nodes[node] += flag[node - 1]
            above: cython.Py_ssize_t = node + (node & -node)
            if above < len(self.nodes):
                self.nodes[above] += self.nodes[node]

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
class EvictionMemory:
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
        self.tree = FenwickTree(np.zeros(_SMALLEST, dtype=np.uint8))

    def clear(self):
        """Forget everything: the cache was emptied, which no memory would have prevented."""
        if self.evictions:
            self._start()

    def save(self) -> dict:
        """Return what it remembers: keys, oldest first, and from each to the next time and evictions."""
        held = np.flatnonzero(self.ts_array != _NEVER)
        first = np.searchsorted(held, self.evictions & self.mask)  # the ring goes on from there
        place = np.concatenate([held[first:], held[:first]])
        back = ((self.evictions - 1 - place) & self.mask) + 1
        return {
            "evictions": self.evictions,
            "places": self.mask + 1,
            "keys": self.key_array[place],
            "gaps": np.diff(self.ts_array[place], prepend=0),
            "steps": -np.diff(back, append=0),
        }

    def restore(self, saved):
        """Go on from what was saved."""
        self.evictions = saved["evictions"]
        self._hold(saved["places"])
        back = np.cumsum(saved["steps"][::-1])[::-1]
        place = (self.evictions - back) & self.mask
        self.key_array[place] = saved["keys"]
        self.ts_array[place] = np.cumsum(saved["gaps"])
        self.tree = FenwickTree(self.ts_array != _NEVER)
        self.index.insert(place, 0)

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
        self.index.hold(self.key_array)
        self.key = memoryview(self.key_array)
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
            With that many more blocks, an LRU cache would still have held it: what makes room for it is
            among them, as a full cache evicts before it allocates.
        """
        count: cython.Py_ssize_t = len(keys)
        comes: cython.const[cython.uchar][::1] = memoryview(begins)
        evictions: cython.Py_ssize_t = 0
        row: cython.Py_ssize_t
        for row in range(count):
            evictions += not comes[row]
        if not evictions and not self.evictions:
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, nothing
        self._see_to_room(evictions)
        returned = np.empty((3, count), dtype=np.int64)
        key: cython.const[cython.longlong][::1] = memoryview(keys)
        times: cython.const[cython.longlong][::1] = memoryview(ts)
        self.returned = memoryview(returned)
        returns: cython.Py_ssize_t = 0
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
        evicted: cython.longlong = self.index.slot_at(place)
        if evicted < 0:
            return False
        self.index.places[place] = REMOVED
        then: cython.longlong = self.ts[evicted]
        self.ts[evicted] = _NEVER
        since: cython.longlong = ((self.evictions - evicted - 1) & self.mask) + 1
        passed: cython.longlong = span(time, then) if time > then else 0
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
        before: cython.longlong = self.index.slot_at(place)
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

    Examples:
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
        self._hold(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint8), 1)

    def _hold(self, keys, again, fewest_places: int = _FEWEST_PLACES):
        """Put keys, oldest access first, at the first places."""
        held = len(keys)
        places = max(fewest_places, 4 << held.bit_length())
        self.key_array = widened(keys, places)
        self.is_last_array = np.zeros(places, dtype=np.uint8)
        self.is_last_array[:held] = 1
        self.is_again_array = widened(again, places)
        self.key = memoryview(self.key_array)
        self.is_last = memoryview(self.is_last_array)
        self.is_again = memoryview(self.is_again_array)
        self.tree = FenwickTree(self.is_last_array)
        self.index = Index(0.375)
        self.index.hold(self.key_array)
        self.index.insert(np.arange(held), 0)
        self.next = self.held = held
        self.first = 0
        self.again = int(np.count_nonzero(again))

    def _in_order(self, column):
        """Return what a column by place holds of each key, the one accessed longest ago first."""
        return column[self.first : self.next][self.is_last_array[self.first : self.next] != 0]

    def keys(self):
        """Return the keys, the one accessed longest ago first, int64."""
        return self._in_order(self.key_array)

    def keep(self, which):
        """Forget all of ``keys()`` but some, bool of the same shape."""
        kept: cython.const[cython.uchar][::1] = memoryview(which.view(np.uint8))
        row: cython.Py_ssize_t = 0
        place: cython.longlong
        for place in range(self.first, self.next):
            if self.is_last[place]:
                if not kept[row]:
                    self._forget(place)
                row += 1

    def save(self) -> dict:
        """Return ``keys()``, and whether each was accessed more than once, uint8."""
        return {"keys": self.keys(), "again": self._in_order(self.is_again_array)}

    def restore(self, saved):
        """Go on from what was saved."""
        self._hold(saved["keys"], saved["again"])

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
            self._hold(self.keys(), self._in_order(self.is_again_array))
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
        before: cython.longlong = self.index.slot_at(place)
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
        self._forget(self.first)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _forget(self, place: cython.longlong) -> cython.void:
        """Forget the key that was accessed last at a place."""
        self.index.remove(self.key[place])
        self.is_last[place] = 0
        self.tree.add(place, -1)
        self.again -= self.is_again[place]
        self.held -= 1


@cython.final
@cython.cclass
class PrefixCache:
    """A simulated LRU cache of blocks that serves each request at once, and takes no room for output.

    The blocks that a request finds from its first on are accessed, up to the first that is missing; from
    there on all are allocated, each in place of the least recently used one. Within a request the last block
    counts as the least recently used, as in vLLM, so that no block outlives those that it builds on. Of a
    request that is larger than the cache, the blocks that find no room are looked up as well: each takes the
    place of the one before it.

    Args:
        capacity: Blocks that the cache holds, 1 or more.

    Examples:
        >>> import numpy as np
        >>> ops, blocks, counts = PrefixCache(2).serve(np.array([7, 8, 7, 9]), np.array([2, 4]))
        >>> ops.tolist(), blocks.tolist(), counts.tolist()
        ([0, 0, 1, 2, 0], [7, 8, 7, 8, 9], [2, 3])
    """

    capacity: cython.longlong
    held: cython.longlong
    block: cython.longlong[::1]  # by row, from 1: rows are a ring by their last use, which row 0 closes
    older: cython.int[::1]
    newer: cython.int[::1]
    index: Index
    wanted: cython.const[cython.longlong][::1]
    row: cython.int[::1]  # of each wanted block
    op: cython.uchar[::1]
    changed: cython.longlong[::1]
    events: cython.Py_ssize_t

    def __init__(self, capacity: int):
        self.capacity = min(capacity, _MOST_ROWS)
        self.held = 0
        self.index = Index(0.375)
        self._widen(np.zeros(1, dtype=np.int64), np.zeros((2, 1), dtype=np.int32))

    def _widen(self, block, neighbours):
        """Keep rows, given with those before and after them by last use."""
        self.block = memoryview(block)
        self.index.hold(block)
        self.older, self.newer = memoryview(neighbours[0]), memoryview(neighbours[1])

    def _see_to_room(self, more: cython.longlong):
        """Make room for ``more`` blocks."""
        rows: cython.longlong = len(self.block)
        if min(self.capacity, self.held + more) >= rows:
            wider = min(self.capacity, max(self.held + more, 2 * rows)) + 1
            neighbours = np.tile(np.arange(wider, dtype=np.int32), (2, 1))  # a new row is a ring of its own
            neighbours[:, :rows] = np.asarray(self.older), np.asarray(self.newer)
            self._widen(widened(np.asarray(self.block), wider), neighbours)
        if self.index.used + more > self.index.limit:
            self.index.rebuild(more)

    def serve(self, wanted, ends):
        """Return the events of requests, in order.

        Args:
            wanted: The blocks of all of them, each one once in its request, int64 (n,).
            ends: Where each request ends, int64 (r,), ascending.

        Returns:
            Operation codes, uint8 (e,), and their blocks, int64 (e,); how many of them belong to each
            request, int64 (r,).

        Raises:
            ValueError: If a request ends after the last block.
        """
        if int(ends.max(initial=0)) > len(wanted):
            raise ValueError("a request ends after the last block")
        self._see_to_room(len(wanted))
        ops = np.empty(2 * len(wanted), dtype=np.uint8)
        blocks = np.empty(2 * len(wanted), dtype=np.int64)
        counts = np.empty(len(ends), dtype=np.int64)
        self.wanted, self.row = memoryview(wanted), memoryview(np.empty(len(wanted), dtype=np.int32))
        self.op, self.changed, self.events = memoryview(ops), memoryview(blocks), 0
        end: cython.const[cython.longlong][::1] = memoryview(ends)
        count: cython.longlong[::1] = memoryview(counts)
        start: cython.Py_ssize_t = 0
        before: cython.Py_ssize_t
        request: cython.Py_ssize_t
        with cython.nogil:
            for request in range(len(end)):
                before = self.events
                self._serve_one(start, end[request])
                count[request] = self.events - before
                start = end[request]
        self.wanted = self.row = self.op = self.changed = None
        return ops[: self.events], blocks[: self.events], counts

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _serve_one(self, start: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.void:
        """Serve the request of some of the wanted blocks."""
        place: cython.Py_ssize_t = start
        while place < end:
            row: cython.int = self.index.slot_at(self.index.find(self.wanted[place]))
            if row < 0:
                break
            self._use(row)  # so that none of them is given up for the others
            self.row[place] = row
            self._show(ACCESS, self.wanted[place])
            place += 1
        while place < end:
            is_oldest: cython.bint = place - start < self.capacity  # else all that is held is this request's
            given_up: cython.int = self.newer[0] if is_oldest else self.row[place - 1]
            self.row[place] = self._allocate(self.wanted[place], given_up)
            place += 1
        if end - start > self.capacity:
            self._use(self.row[end - 1])
            end = start + self.capacity - 1
        while end > start:
            end -= 1
            self._use(self.row[end])

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _allocate(self, block: cython.longlong, given_up: cython.int) -> cython.int:
        """Hold a block, where there is no other room in the row that is given up; return its row."""
        place: cython.longlong = self.index.find(block)
        row: cython.int = self.index.slot_at(place)
        if row < 0:
            if self.held < self.capacity:
                self.held += 1
                row = self.held
            else:
                row = given_up
                self._show(EVICT, self.block[row])
                self.index.remove(self.block[row])
            self.block[row] = block
            self.index.put(place, row)
        self._use(row)
        self._show(ALLOC, block)
        return row

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _use(self, row: cython.int) -> cython.void:
        """Make a row the one used last."""
        older: cython.int = self.older[row]
        newer: cython.int = self.newer[row]
        self.newer[older] = newer
        self.older[newer] = older
        newest: cython.int = self.older[0]
        self.newer[newest] = row
        self.older[row] = newest
        self.newer[row] = 0
        self.older[0] = row

    @cython.cfunc
    @cython.inline
    @cython.nogil
    @cython.exceptval(check=False)
    def _show(self, op: cython.uchar, block: cython.longlong) -> cython.void:
        """Add an event."""
        self.op[self.events] = op
        self.changed[self.events] = block
        self.events += 1


def widened(column, slots: int):
    """Return a column by slot with zeros behind it."""
    wider = np.zeros(slots, dtype=column.dtype)
    wider[: len(column)] = column
    return wider
