"""The compiled twin of ``BlockIndex``: one id at a time, in the same table of places."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kvstream.blocks.index import EMPTY, REMOVED
from kvstream.blocks.prefetch_compiled import prefetch
from kvstream.compiled import compiled
from kvstream.events.frame import I64

_AHEAD = 16  # ids that are inserted while memory answers

Places = npt.NDArray[np.int32]


@compiled
def home(block: int, bits: int, factor: np.uint64) -> Any:
    """The place where an id is, if no other is there."""
    return np.int64(np.uint64(block) * factor >> np.uint64(64 - bits))


@compiled
def find_or_free(places: Places, bits: int, factor: np.uint64, block: int, id_of: I64) -> Any:
    """The place of an id, or a place to insert it at if it is not there."""
    mask = len(places) - 1
    place, step, free = home(block, bits, factor), 0, -1
    while places[place] != EMPTY:
        slot = places[place]
        if slot >= 0 and id_of[slot] == block:
            return place
        if slot < 0 and free < 0:
            free = place
        step += 1
        place = (place + step) & mask
    return free if free >= 0 else place


@compiled
def insert_each(places: Places, bits: int, factor: np.uint64, blocks: I64, slots: Places) -> None:
    """Adds ids that are not there, each once, at places of which there must be as many."""
    mask = len(places) - 1
    for i in range(len(blocks)):
        if i + _AHEAD < len(blocks):
            prefetch(places, (home(blocks[i + _AHEAD], bits, factor),))
        place, step = home(blocks[i], bits, factor), 0
        while places[place] >= 0:
            step += 1
            place = (place + step) & mask
        places[place] = slots[i]


@compiled
def remove_one(places: Places, bits: int, factor: np.uint64, block: int, id_of: I64) -> None:
    """Takes out an id that is there."""
    places[find_or_free(places, bits, factor, block, id_of)] = REMOVED
