"""The compiled twin of ``GhostIndex.apply``: one change at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.blocks.grouping import Mask
from kvstream.blocks.index import REMOVED
from kvstream.blocks.index_compiled import Places, find_or_free, home, remove_one
from kvstream.blocks.prefetch_compiled import prefetch
from kvstream.compiled import compiled
from kvstream.events.frame import I64
from kvstream.metrics.ghosts import NO_GHOST

Tree = npt.NDArray[np.int32]

_AHEAD = 16  # changes that are made while memory answers


@compiled
def add(tree: Tree, place: int, change: int) -> None:
    """Add to the count at a place of a Fenwick tree."""
    end = place + 1
    while end <= len(tree):
        tree[end - 1] += change
        end += end & -end


@compiled
def count_before(tree: Tree, place: int) -> Any:
    """Sum the counts at the places before one."""
    total = 0
    while place > 0:
        total += tree[place - 1]
        place &= place - 1
    return total


@compiled
def apply_changes(
    content: I64,
    ts: I64,
    begins: Mask,
    evictions: int,
    most: int,
    longest_ns: int,
    places: Places,
    bits: int,
    factor: np.uint64,
    of_ghost: I64,
    ts_of: I64,
    tree: Tree,
    times: I64,
    distances: I64,
    rows: I64,
) -> Any:
    """Takes in changes, in order, and writes what came back to the last three columns.

    Args:
        content: Content that came or went, int64 (k,).
        ts: Times, ns.
        begins: Whether it came.
        evictions: How many there were before.
        most: Evictions after which a ghost is forgotten.
        longest_ns: Time after which it is.
        places: The index of ghosts, with room for every eviction here.
        bits: Of the numbers of its places.
        factor: Of the index, which scatters content over its places.
        of_ghost: Content of each ghost, by place in a ring of at least ``most``, or of all there will be.
        ts_of: Time of its eviction.
        tree: A Fenwick tree of the places at which there is a ghost.
        times: From eviction to return.
        distances: Ghosts of later evictions, at least 1.
        rows: The changes that brought it back.

    Returns:
        How many came back.
    """
    mask = len(of_ghost) - 1
    returned = 0
    for row in range(len(content)):
        if row + _AHEAD < len(content):
            prefetch(places, (home(content[row + _AHEAD], bits, factor),))
        block = content[row]
        place = find_or_free(places, bits, factor, block, of_ghost)
        before = places[place]  # its ghost, if it has one
        if begins[row]:
            if before >= 0:
                time, since = ts[row] - ts_of[before], (evictions - before - 1 & mask) + 1
                if since <= most and time <= longest_ns:
                    end = evictions & mask
                    distance = count_before(tree, end) - count_before(tree, before)
                    if before >= end:
                        distance += count_before(tree, mask + 1)
                    times[returned], distances[returned] = max(0, time), max(1, distance - 1)
                    rows[returned] = row
                    returned += 1
                places[place], ts_of[before] = REMOVED, NO_GHOST
                add(tree, before, -1)
            continue
        ghost = evictions & mask
        if ts_of[ghost] != NO_GHOST:
            remove_one(places, bits, factor, of_ghost[ghost], of_ghost)
            add(tree, ghost, -1)
        if before >= 0 and before != ghost:
            ts_of[before] = NO_GHOST
            add(tree, before, -1)
        add(tree, ghost, 1)
        of_ghost[ghost], ts_of[ghost], places[place] = block, ts[row], ghost
        prefetch(places, (home(of_ghost[ghost + _AHEAD & mask], bits, factor),))
        evictions += 1
    return returned
