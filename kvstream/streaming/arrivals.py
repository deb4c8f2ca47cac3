"""Arrivals: when the last frame of each source was applied, by the event loop's clock."""

from collections.abc import Mapping

import anyio


class Arrivals:
    """When the last frame of each source of a live stream was applied, for use on its event loop."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}  # seconds, by source; the oldest first
        self._lags: dict[str, float] = {}  # seconds that its newest event was behind the wall clock then
        self._is_closed = False

    def __contains__(self, source: str) -> bool:
        return source in self._at

    def note(self, source: str, lag: float | None) -> None:
        """Note that frames were applied just now.

        Args:
            source: Their source.
            lag: Seconds from the newest event to now; None if there was none.
        """
        self._at.pop(source, None)  # so that it goes to the end
        self._at[source] = anyio.current_time()
        if lag is not None:
            self._lags[source] = lag

    def age(self, source: str) -> float:
        """Return seconds since the last frame of a source was applied; 0 for a source that is not known."""
        at = None if self._is_closed else self._at.get(source)
        return 0.0 if at is None else max(0.0, anyio.current_time() - at)

    def lag(self, source: str) -> float | None:
        """Return seconds from the newest event of a source to when it was applied; None if not known."""
        return self._lags.get(source)

    def longest_silent(self) -> tuple[str, float] | None:
        """Return the source that has been silent for longest, and for how many seconds; None without any."""
        source, at = next(iter(self._at.items()), (None, 0.0))
        return None if source is None else (source, anyio.current_time() - at)

    def postpone(self, seconds: float) -> None:
        """Postpone the last arrival of all sources, as nothing could arrive for some seconds."""
        self._at = {source: at + seconds for source, at in self._at.items()}

    def forget(self, source: str) -> None:
        """Forget a source."""
        del self._at[source]
        self._lags.pop(source, None)

    def ages(self) -> dict[str, float]:
        """Return the age of each source, seconds."""
        if self._is_closed:
            return dict.fromkeys(self._at, 0.0)
        now = anyio.current_time()
        return {source: max(0.0, now - at) for source, at in self._at.items()}

    def restore(self, ages: Mapping[str, float]) -> None:
        """Go on with sources of some ages, which may be negative: those can only be silent later."""
        now = anyio.current_time()
        oldest_first = sorted(ages, key=lambda source: -ages[source])
        self._at = {source: now - ages[source] for source in oldest_first}

    def close(self) -> None:
        """Count no source as silent from now on; afterwards it can be used outside the event loop."""
        self._is_closed = True
