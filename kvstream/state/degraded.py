"""DegradedSources: sources of which the state was lost, until their figures are true again."""

from collections.abc import Iterable, Mapping
from typing import Any

from kvstream.engine.cache import CacheMonitor
from kvstream.engine.source import SourceMonitor

_UNKNOWN_SHARE = 0.01
"""Events of unknown blocks by generations ended, up to which all that is live is known."""


class DegradedSources:
    """Follows sources that began with nothing though their engines had blocks, as their state was lost.

    Such a source is whole again once each of its caches was cleared, or turned over: as many generations
    ended as are live, with hardly an event of a block that is not known. A source of which the first frame is
    here was whole from the beginning.
    """

    def __init__(self) -> None:
        self._is_lost = False  # what there was, of sources that nobody knows
        self._names: set[str] = set()  # of sources that lost their state
        self._whole: set[str] = set()
        # Of each cache: events of unknown blocks, and generations ended, when its turnover began.
        self._turned: dict[tuple[str, str], tuple[int, int]] = {}

    def begin(self, is_lost: bool, names: Iterable[str]) -> None:
        """Record what was lost.

        Args:
            is_lost: Whether the state of every source was.
            names: Sources that lost their state.
        """
        self._is_lost |= is_lost
        self._names.update(names)
        if is_lost:
            self._whole.clear()
        self._whole.difference_update(names)

    def look(self, sources: Iterable[SourceMonitor]) -> list[str]:
        """Return the names of those that are degraded now."""
        if not self._is_lost and not self._names:
            return []
        degraded = []
        for source in sources:
            if source.source in self._whole or not (self._is_lost or source.source in self._names):
                continue
            whole = [self._is_whole(tier) for tier in source.tiers.values()]
            if source.is_from_its_beginning or all(whole):
                self._whole.add(source.source)
            else:
                degraded.append(source.source)
        return degraded

    def _is_whole(self, cache: CacheMonitor) -> bool:
        counts = cache.counts()
        if counts.clears:
            return True
        unknown = counts.unknown_accesses + counts.unknown_evictions
        ended = counts.total_evictions + counts.cleared
        unknown_before, ended_before = self._turned.setdefault((cache.source, cache.tier), (unknown, ended))
        if ended - ended_before < max(1, cache.table.live_count):
            return False
        self._turned[cache.source, cache.tier] = unknown, ended
        return unknown - unknown_before <= (ended - ended_before) * _UNKNOWN_SHARE

    def save(self) -> dict[str, Any]:
        """Return what was lost and is not yet complete again."""
        return {"is_lost": self._is_lost, "names": sorted(self._names), "whole": sorted(self._whole)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self._is_lost = saved["is_lost"]
        self._names, self._whole = set(saved["names"]), set(saved["whole"])
