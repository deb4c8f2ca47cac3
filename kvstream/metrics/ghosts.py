"""Ghosts: content that was evicted not long ago. What comes back while it is one was evicted prematurely."""

import msgspec
import numpy as np
import numpy.typing as npt

from kvstream.blocks.grouping import Mask
from kvstream.blocks.index import GOLDEN, BlockIndex
from kvstream.blocks.observations import ContentChanges
from kvstream.compiled import compiled_loop
from kvstream.events.frame import I64

NO_GHOST = -1
"""Time of eviction at a place where there is no ghost."""
_SMALLEST = 1024
_FEW = 8  # returns that are looked at one by one
_COMPARED = 64  # ghosts that are compared each with each
_LOAD = 0.375


class Returns(msgspec.Struct, frozen=True, eq=False):
    """Evicted content that came back, in columns of equal length m.

    Attributes:
        times: From eviction to return, ns, int64 (m,).
        distances: Contents evicted later that had not come back by then, at least 1, int64 (m,). With so
            many blocks more, an LRU cache would still have held it: what makes room for its return is among
            them, as a full cache evicts before it allocates.
        rows: The changes that brought it back, int64 (m,).
    """

    times: I64
    distances: I64
    rows: I64


class GhostIndex:
    """Remembers the last evictions, and tells which allocations bring something of them back.

    Content is a ghost until it comes back, until ``most`` evictions have followed its own, or until
    ``longest_ns`` have passed. Within these bounds the index is exact.

    Args:
        most: Ghosts remembered; memory is 50 to 100 bytes each and grows as they come.
        longest_ns: How long they are remembered.
    """

    def __init__(self, most: int, longest_ns: int) -> None:
        self.most, self.longest_ns = most, longest_ns
        self._evictions = 0  # so far; an eviction's number is how many came before it
        self._forgotten = 0  # the first of them, before the last clear
        self._index = BlockIndex(_LOAD)
        self._apply_compiled = compiled_loop("kvstream.metrics.ghosts_compiled", "apply_changes")
        self._hold(_SMALLEST)

    def _hold(self, places: int) -> None:
        """Makes an empty ring; an eviction's place is its number modulo the ring's length."""
        self._content = np.zeros(places, dtype=np.int64)
        self._ts = np.full(places, NO_GHOST, dtype=np.int64)
        self._tree = np.zeros(places if self._apply_compiled is not None else 0, dtype=np.int32)

    def _number(self, place: I64) -> I64:
        """The number of the eviction that each ghost is of, which its place in the ring tells."""
        return self._evictions - 1 - (self._evictions - 1 - place & len(self._content) - 1)

    def apply(self, changes: ContentChanges) -> Returns:
        """Takes in changes, in order; returns what came back."""
        if not len(changes.content):
            return Returns(changes.ts, changes.content, changes.content)
        evictions = ~changes.begins
        count = int(np.count_nonzero(evictions))
        if not count and self._evictions == self._forgotten:  # nothing is remembered
            return Returns(changes.ts[:0], changes.content[:0], changes.content[:0])
        if self._apply_compiled is not None:
            self._make_room(min(self._evictions + count, self.most))
            return self._applied_by_loop(changes, count)
        self._make_room(min(self._evictions, self.most) + count)
        number = self._evictions - evictions + evictions.cumsum()  # evictions before each change
        taken = np.arange(self._evictions, self._evictions + count)
        order, content, first = _by_content(changes.content)
        begins, ts, number = changes.begins.take(order), changes.ts.take(order), number.take(order)
        last = np.append(first[1:], True)
        # A ghost ends as its content is allocated, which is a return, or evicted anew: it is of an eviction
        # among these changes, or of one remembered.
        here = (~first).nonzero()[0]
        here = here.compress(~begins.take(here - 1))
        # Where content is held once, what is evicted is no ghost: its allocation ended that.
        heads = (first & begins if changes.held_once else first).nonzero()[0]
        place = self._index.lookup(content.take(heads), self._content)
        known = place >= 0
        heads, place = heads.compress(known), place.compress(known)
        ends = np.concatenate([here, heads])
        evicted = np.concatenate([number.take(here - 1), self._number(place)])
        times = np.concatenate([ts.take(here) - ts.take(here - 1), ts.take(heads) - self._ts.take(place)])
        since = number.take(ends) - evicted
        gone = self._ended_before(evicted) + _ended_meanwhile(evicted, order.take(ends))
        distances = np.maximum(since - 1 - gone, 1)
        self._remove(place)
        self._evictions += count
        self._insert(content, number, ts, (last & ~begins).nonzero()[0], taken)
        within = (since <= self.most) & (times <= self.longest_ns) & begins.take(ends)
        rows = order.take(ends).compress(within)
        return Returns(np.maximum(times.compress(within), 0), distances.compress(within), rows)

    def _ended_before(self, evicted: I64) -> I64:
        """Return how many later ghosts than each of some evictions, by number, have ended by now."""
        since = np.maximum(self._evictions - evicted, 0)
        if len(since) <= _FEW:
            remembered = [self._remembered(each).sum() for each in since.tolist()]
            return since - np.array(remembered, dtype=np.int64)
        are = self._remembered(int(since.max()))
        before = np.zeros(len(are) + 1, dtype=np.int64)
        are.cumsum(out=before[1:])
        ended: I64 = since - (before[-1] - before.take(len(are) - since))
        return ended

    def _remembered(self, last: int) -> Mask:
        """Return whether each of the last evictions, no more than the ring holds, is that of a ghost."""
        end = self._evictions & len(self._ts) - 1
        start = end - last
        ring = self._ts
        times = ring[start:end] if start >= 0 else np.concatenate([ring[start:], ring[:end]])
        are_ghosts: Mask = times != NO_GHOST
        return are_ghosts

    def _applied_by_loop(self, changes: ContentChanges, count: int) -> Returns:
        """Does what ``apply`` does; there is room for so many evictions."""
        assert self._apply_compiled is not None  # noqa: S101
        if self._index.lacks_room(count):
            self._index.rebuild((self._ts != NO_GHOST).nonzero()[0], count, self._content)
        times, distances, rows = np.empty((3, len(changes.content)), dtype=np.int64)
        returned = self._apply_compiled(
            changes.content,
            changes.ts,
            changes.begins,
            self._evictions,
            self.most,
            self.longest_ns,
            self._index.places,
            self._index.bits,
            self._index.factor,
            self._content,
            self._ts,
            self._tree,
            times,
            distances,
            rows,
        )
        self._evictions += count
        self._index.note_inserted(count)
        return Returns(times[:returned], distances[:returned], rows[:returned])

    def clear(self) -> None:
        """Forgets everything: the cache was emptied, which no memory would have prevented."""
        since, self._forgotten = self._evictions - self._forgotten, self._evictions
        if not since:
            return
        self._index = BlockIndex(_LOAD)
        self._tree[:] = 0
        if since < len(self._ts):  # what was evicted since the last time, and not the whole ring
            places = np.arange(self._evictions - since, self._evictions) & len(self._ts) - 1
            self._ts[places] = NO_GHOST
        else:
            self._ts[:] = NO_GHOST

    def _insert(self, content: I64, number: I64, ts: I64, rows: I64, taken: I64) -> None:
        """Makes ghosts of the rows, on places that all the evictions, ``taken``, have freed."""
        mask = len(self._content) - 1
        self._remove((taken & mask).compress(self._ts.take(taken & mask) != NO_GHOST))
        place = number.take(rows) & mask
        self._content[place], self._ts[place] = content.take(rows), ts.take(rows)
        self._index.insert(content.take(rows), place, self._content)

    def _remove(self, place: I64) -> None:
        self._index.remove(self._content.take(place), self._content)
        self._ts[place] = NO_GHOST

    def _make_room(self, wanted: int) -> None:
        """Grows the ring to twice its length until it has so many places."""
        if wanted <= len(self._content):
            return
        held = (self._ts != NO_GHOST).nonzero()[0]
        content, ts = self._content[held], self._ts[held]
        number = self._number(held)
        self._index = BlockIndex(_LOAD)
        self._hold(1 << (wanted - 1).bit_length())
        self._insert(content, number, ts, np.arange(len(held)), number)
        if len(self._tree):
            self._tree[:] = _tree_of(self._ts != NO_GHOST)


def _ended_meanwhile(evicted: I64, rows: I64) -> I64:
    """Return how many ghosts of later evictions end before each of some ghosts does, in the same changes.

    Args:
        evicted: Number of the eviction of each ghost that ends, int64 (k,).
        rows: The change that ends it, int64 (k,).
    """
    count = len(rows)
    if count < 2:
        return np.zeros(count, dtype=np.int64)
    by_row = rows.argsort()
    evicted = evicted.take(by_row)
    found = np.empty(count, dtype=np.int64)
    if count <= _COMPARED:
        found[by_row] = np.tril(evicted > evicted[:, np.newaxis]).sum(axis=1)
        return found
    rank = np.empty(count, dtype=np.int64)
    rank[evicted.argsort()] = np.arange(count)
    found[by_row] = larger_before(rank)
    return found


def larger_before(values: I64) -> I64:
    """Return how many larger values stand before each one; values are a permutation of 0 to n - 1.

    They are parted by their highest bit, those halves by the next one, and so on, each half in its order:
    among what shares the higher bits, ones that stand before a zero are larger. Costs n log n.

    Example:
        >>> larger_before(np.array([2, 0, 1])).tolist()
        [0, 1, 1]
    """
    count = len(values)
    bits = (count - 1).bit_length()
    packed = np.arange(
        1 << bits
    )  # values, with counts above them; what is added is larger, and stands behind
    packed[:count] = values
    for bit in reversed(range(bits)):
        is_one = (packed >> bit & 1).astype(np.bool_)
        before = is_one.reshape(-1, 2 << bit).cumsum(axis=1).ravel()
        is_zero = ~is_one
        zeros = packed[is_zero] + (before[is_zero] << bits)
        halves = zeros.reshape(-1, 1 << bit), packed[is_one].reshape(-1, 1 << bit)
        packed = np.concatenate(halves, axis=1).ravel()
    return (packed >> bits).take(values)


def _tree_of(flags: Mask) -> npt.NDArray[np.int64]:
    """Return the Fenwick tree of flags, bool (n,): entry k - 1 counts the last ``k & -k`` of the first k."""
    before = np.concatenate([[0], flags.cumsum()])
    ends = np.arange(1, len(flags) + 1)
    tree: npt.NDArray[np.int64] = before[ends] - before[ends & ends - 1]
    return tree


def _by_content(content: I64) -> tuple[I64, I64, Mask]:
    """Brings the same together, in its order.

    Returns:
        The places of the content in that order, the content, and whether each is the first of the same.
    """
    # Bits of the content and its place, packed into one integer, are sorted at a fraction of argsort's cost.
    place_bits = (1 << len(content).bit_length()) - 1
    packed = (content.view(np.uint64) * GOLDEN).view(np.int64) & ~place_bits | np.arange(len(content))
    packed.sort()
    order = packed & place_bits
    ordered = content.take(order)
    first = np.append(True, ordered[1:] != ordered[:-1])
    packed >>= len(content).bit_length()
    if (first[1:] & (packed[1:] == packed[:-1])).any():  # two contents of the same bits
        order = content.argsort(kind="stable")
        ordered = content.take(order)
        first = np.append(True, ordered[1:] != ordered[:-1])
    return order, ordered, first
