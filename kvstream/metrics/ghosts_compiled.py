"""The compiled twin of ``GhostIndex.apply``: one change at a time."""

from typing import Any

from kvstream.blocks.grouping import Mask
from kvstream.blocks.index import REMOVED
from kvstream.blocks.index_compiled import Places, find_one, home, insert_one, remove_one
from kvstream.blocks.prefetch_compiled import prefetch
from kvstream.compiled import compiled
from kvstream.events.frame import I64
from kvstream.metrics.ghosts import NO_GHOST

_AHEAD = 16  # changes that are made while memory answers


@compiled
def apply_changes(
    content: I64,
    ts: I64,
    begins: Mask,
    held_once: bool,
    evictions: int,
    most: int,
    longest_ns: int,
    places: Places,
    bits: int,
    of_ghost: I64,
    ts_of: I64,
    times: I64,
    distances: I64,
    rows: I64,
) -> Any:
    """Takes in changes, in order, and writes what came back to the last three columns.

    Args:
        content: Content that came or went, int64 (k,).
        ts: Times, ns.
        begins: Whether it came.
        held_once: Whether no two blocks ever hold the same content.
        evictions: How many there were before.
        most: Evictions after which a ghost is forgotten.
        longest_ns: Time after which it is.
        places: The index of ghosts, with room for every eviction here.
        bits: Of the numbers of its places.
        of_ghost: Content of each ghost, by place in a ring of at least ``most``, or of all there will be.
        ts_of: Time of its eviction.
        times: From eviction to return.
        distances: Evictions since.
        rows: The changes that brought it back.

    Returns:
        How many came back.
    """
    mask = len(of_ghost) - 1
    returned = 0
    for row in range(len(content)):
        if row + _AHEAD < len(content):
            prefetch(places, (home(content[row + _AHEAD], bits),))
        block = content[row]
        # Where content is held once, what is evicted is no ghost: its allocation ended that.
        if begins[row] or not held_once:
            found = find_one(places, bits, block, of_ghost)
            if found >= 0:
                ghost = places[found]
                places[found] = REMOVED
                time, distance = ts[row] - ts_of[ghost], (evictions - ghost - 1 & mask) + 1
                ts_of[ghost] = NO_GHOST
                if begins[row] and distance <= most and time <= longest_ns:
                    times[returned], distances[returned], rows[returned] = max(0, time), distance, row
                    returned += 1
        if not begins[row]:
            ghost = evictions & mask
            if ts_of[ghost] != NO_GHOST:
                remove_one(places, bits, of_ghost[ghost], of_ghost)
            of_ghost[ghost], ts_of[ghost] = block, ts[row]
            prefetch(places, (home(of_ghost[ghost + _AHEAD & mask], bits),))
            insert_one(places, bits, block, ghost)
            evictions += 1
    return returned
