"""StreamLimits: how much a stream holds at most, over the monitors of all consumers, and what it refuses."""

import logging
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kvstream.blocks.table import BlockTable
from kvstream.config import MetricsConfig
from kvstream.events.frame import EventFrame
from kvstream.events.types import Op

logger = logging.getLogger("kvstream")

TOO_MANY_CACHES, TOO_MANY_TIERS, TOO_MANY_BLOCKS = "too_many_caches", "too_many_tiers", "too_many_blocks"
_NEVER_BEGIN = (Op.EVICT, Op.REMOVE, Op.CLEAR)  # what is not live is from any other event on
MAX_TIERS = 64  # of one source, so that none takes the room of all


class StreamLimits:
    """Counts the caches and live blocks of a stream, and refuses those beyond its settings.

    Any thread may ask, as the consumers of a stream share it.

    Args:
        config: The settings.

    Attributes:
        refused: Events refused so far, by drop reason.
    """

    def __init__(self, config: MetricsConfig) -> None:
        self.refused: Counter[str] = Counter()
        self._config = config
        self._lock = threading.Lock()
        self._tables: dict[BlockTable, int] = {}  # events on their way into each
        self._live_at_most = 0  # blocks live when they were last counted, and all events begun since

    @property
    def reached(self) -> bool:
        """Return whether there is no room for another cache."""
        return len(self._tables) >= self._config.max_caches

    def reason_against(self, tiers: int) -> str | None:
        """Return why a source with ``tiers`` tiers can have no further one; None if it can."""
        if tiers >= MAX_TIERS:
            return TOO_MANY_TIERS
        return TOO_MANY_CACHES if self.reached else None

    def hold(self, table: BlockTable) -> str | None:
        """Take in a cache; return why it cannot be if the last place was taken meanwhile."""
        with self._lock:
            if self.reached:
                return TOO_MANY_CACHES
            self._tables[table] = 0
            self._live_at_most += table.live_count  # of one that was saved
            return None

    def release(self, table: BlockTable) -> None:
        """Give the place of a cache back."""
        with self._lock:
            self._tables.pop(table, None)

    def refuse(self, reason: str, events: int) -> None:
        """Count refused events."""
        with self._lock:
            is_first = reason not in self.refused
            self.refused[reason] += events
        if is_first:
            logger.warning("events are dropped (%s): %s", reason, self.describe(reason))

    def describe(self, reason: str) -> str:
        """Return which limit is reached, with its value and its setting if it has one."""
        if reason == TOO_MANY_TIERS:
            return f"more than {MAX_TIERS:,} tiers of one source"
        what, setting, limit = {
            TOO_MANY_CACHES: ("caches", "max_caches", self._config.max_caches),
            TOO_MANY_BLOCKS: ("live blocks", "max_live_blocks", self._config.max_live_blocks),
        }[reason]
        return f"more than {limit:,} {what} ({setting} = {limit})"

    def save(self) -> dict[str, int]:
        """Return events refused so far, by drop reason."""
        return dict(self.refused)

    def restore(self, saved: dict[str, int]) -> None:
        """Go on counting from what was saved."""
        self.refused.update(saved)

    def descriptions(self) -> dict[str, str]:
        """Return what ``describe`` says of each drop reason."""
        return {
            reason: self.describe(reason) for reason in (TOO_MANY_CACHES, TOO_MANY_TIERS, TOO_MANY_BLOCKS)
        }

    def fitting(self, table: BlockTable, frames: Sequence[EventFrame]) -> tuple[Sequence[EventFrame], int]:
        """Return frames of one cache without the events that would make too many blocks live.

        Where there is room for all events of the frames, as nearly always, no block is looked at. Otherwise
        each block that was not live before the frames needs room for each event that can make it live.
        The frames count as on their way into the cache until ``applied`` says that they are there.

        Returns:
            The frames, and how many events were left out; those are not yet counted as refused.
        """
        with self._lock:
            return self._fitting(table, frames)

    def applied(self, table: BlockTable) -> None:
        """Take note that the frames of a cache that were fitting are applied, or never will be."""
        with self._lock:
            if table in self._tables:
                self._tables[table] = 0

    def _fitting(self, table: BlockTable, frames: Sequence[EventFrame]) -> tuple[Sequence[EventFrame], int]:
        events = sum([len(frame.ops) for frame in frames])  # a generator takes twice as long
        if self._live_at_most + events > self._config.max_live_blocks:
            self._live_at_most = sum(held.live_count + coming for held, coming in self._tables.items())
        room = self._config.max_live_blocks - self._live_at_most
        if events <= room:
            self._live_at_most += events
            self._tables[table] = events
            return frames, 0
        before = room
        fitting: list[EventFrame] = []
        for frame in frames:
            begins = ~np.isin(frame.ops, _NEVER_BEGIN)
            needs_room = begins & ~table.holds(frame.blocks)
            beyond = needs_room & (np.cumsum(needs_room) > room)
            taken = int(np.count_nonzero(needs_room & ~beyond))
            room -= taken
            self._live_at_most += taken
            fitting.append(frame.take(~beyond) if beyond.any() else frame)
        self._tables[table] = before - room
        kept = [frame for frame in fitting if len(frame.ops)]
        return kept, events - sum(len(frame.ops) for frame in kept)
