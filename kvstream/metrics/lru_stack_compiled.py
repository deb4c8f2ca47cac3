"""The compiled twin of ``LruStack``: a place for each access, and a tree that counts the places in use."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.blocks.grouping import Mask
from kvstream.blocks.index import BlockIndex
from kvstream.blocks.index_compiled import Places, find_or_free, remove_one
from kvstream.blocks.observations import joined
from kvstream.compiled import compiled
from kvstream.events.frame import I64

_FEWEST = 256  # contents that there are places for
_LOAD = 0.375
_NEXT, _FIRST, _HELD, _AGAIN, _INSERTED, _FOUND, _STATE = range(7)  # places in ``state``


class CompiledLruStack:
    """What ``LruStack`` is, in about 100 bytes a content.

    Each access has a place of its own, one after the other; when they are used up, the contents are
    put together at the first ones.
    """

    def __init__(self) -> None:
        self._others: list[I64] = []
        self._index = BlockIndex(_LOAD)
        self._hold(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_))

    def _hold(self, contents: I64, again: Mask) -> None:
        held = len(contents)
        places = 4 * max(_FEWEST, 1 << held.bit_length())
        self._content = np.zeros(places, dtype=np.int64)  # by place, as the others
        self._is_last, self._is_again = np.zeros((2, places), dtype=np.bool_)
        self._content[:held], self._is_last[:held], self._is_again[:held] = contents, True, again
        # Fenwick tree: node n counts the last accesses at as many places up to n as its lowest bit says.
        node = np.arange(places + 1)
        self._tree = (np.minimum(node, held) - np.minimum(node - (node & -node), held)).astype(np.int32)
        self._index.rebuild(np.arange(held), 0, self._content)
        self._state = np.zeros(_STATE, dtype=np.int64)
        self._state[[_NEXT, _HELD, _AGAIN]] = held, held, np.count_nonzero(again)

    def __len__(self) -> int:
        return int(self._state[_HELD])

    @property
    def again(self) -> int:
        """Contents accessed more than once."""
        return int(self._state[_AGAIN])

    @property
    def waiting(self) -> int:
        """How much ``take_others`` would give."""
        return sum(map(len, self._others))

    def access(self, contents: I64, room: int, furthest: int) -> int:
        """Takes in accesses, as ``LruStack.access``."""
        if self._state[_NEXT] == len(self._content):
            self.keep(np.ones(len(self), dtype=np.bool_))
        contents = np.ascontiguousarray(contents[: len(self._content) - int(self._state[_NEXT])])
        self._index.make_room(len(contents), self._content)
        others = np.empty(len(contents), dtype=np.int64)
        taken = _access_each(
            contents,
            self._content,
            self._is_last,
            self._is_again,
            self._tree,
            self._index.places,
            self._index.bits,
            self._index.factor,
            room,
            furthest,
            self._state,
            others,
        )
        self._index.note_inserted(int(self._state[_INSERTED]))
        self._others.append(others[: self._state[_FOUND]])
        return int(taken)

    def take_others(self) -> I64:
        """How many other contents were accessed between two accesses of one, as ``LruStack.take_others``."""
        others, self._others = self._others, []
        return joined(others)

    def contents(self) -> I64:
        """The contents, the one accessed longest ago first, int64."""
        return self._content.compress(self._is_last)

    def keep(self, which: npt.NDArray[np.bool_]) -> None:
        """Forgets all of ``contents()`` but some, bool of the same shape."""
        again = self._is_again.compress(self._is_last)
        self._hold(self.contents().compress(which), again.compress(which))


@compiled
def _count_in(tree: Places, place: int, change: int) -> None:
    node = place + 1
    while node < len(tree):
        tree[node] += change
        node += node & -node


@compiled
def _count_up_to(tree: Places, place: int) -> Any:
    count, node = 0, place + 1
    while node > 0:
        count += tree[node]
        node &= node - 1
    return count


@compiled
def _access_each(
    contents: I64,
    content_at: I64,
    is_last: Mask,
    is_again: Mask,
    tree: Places,
    places: Places,
    bits: int,
    factor: np.uint64,
    room: int,
    furthest: int,
    state: I64,
    others: I64,
) -> Any:
    """Takes in accesses.

    Args:
        contents: What was accessed, in order, int64 (n,).
        content_at: Content accessed at each place; there are n places left.
        is_last: Whether that was its last access.
        is_again: Whether it was accessed before.
        tree: Counts of last accesses.
        places: Index of the contents: place of their last access.
        bits: Of the numbers of its places.
        factor: Of the index, which scatters content over its places.
        room: Contents that there is room for.
        furthest: Contents after which what comes anew takes the place of the oldest.
        state: Next place, a place that no last access is before, contents held and accessed more than
            once, and then what is told of this call: contents inserted, and ``others`` found.
        others: Contents accessed between two accesses of one.

    Returns:
        How many accesses were taken in.
    """
    state[_INSERTED] = state[_FOUND] = 0
    for taken in range(len(contents)):
        content = contents[taken]
        place, at = find_or_free(places, bits, factor, content, content_at), state[_NEXT]
        before = places[place]  # where it was last, if it is held
        state[_NEXT] += 1
        content_at[at], is_last[at], is_again[at], places[place] = content, True, before >= 0, at
        if before >= 0:
            others[state[_FOUND]] = state[_HELD] - _count_up_to(tree, before)
            state[_FOUND] += 1
            state[_AGAIN] += not is_again[before]
            is_last[before] = False
            _count_in(tree, before, -1)
            _count_in(tree, at, 1)
            continue
        _count_in(tree, at, 1)
        state[_INSERTED] += 1
        state[_HELD] += 1
        if state[_HELD] > furthest:
            oldest = state[_FIRST]
            while not is_last[oldest]:
                oldest += 1
            state[_FIRST] = oldest
            remove_one(places, bits, factor, content_at[oldest], content_at)
            is_last[oldest] = False
            _count_in(tree, oldest, -1)
            state[_AGAIN] -= is_again[oldest]
            state[_HELD] -= 1
        if state[_HELD] > room:
            return taken + 1
    return len(contents)
