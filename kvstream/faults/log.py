"""FaultLog: what went wrong at the edges, counted by part and reason and logged at a bounded rate."""

import logging
import time
from collections import Counter
from collections.abc import Callable

from kvstream.text.escape import for_terminal, shortened

_LOG_SECONDS = 1.0
_LONGEST_MESSAGE = 500

_logger = logging.getLogger("kvstream")


class FaultLog:
    """Counts contained errors and logs at most one line a second for each part and reason.

    An error that ends a connection, a message or a call of a handler ends nothing else: it is noted here
    and the rest goes on. Usable from any thread.

    Args:
        clock: Monotonic seconds.

    Attributes:
        counts: Errors so far, by (part, reason).

    Examples:
        >>> faults = FaultLog()
        >>> faults.note("frames", "bad_token", "refused a producer: wrong token")
        >>> faults.counts["frames", "bad_token"]
        1
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._clock = clock
        self._logged_at: dict[tuple[str, str], float] = {}
        self._unlogged: Counter[tuple[str, str]] = Counter()
        self._standing: set[tuple[str, str]] = set()

    def note_standing(self, part: str, reason: str, message: str) -> None:
        """Count an error that lasts, and log it unless it has been logged since it was last over.

        Args:
            part: As for ``note``.
            reason: As for ``note``.
            message: What is wrong, and what to do.
        """
        kind = (part, reason)
        if kind in self._standing:
            self.counts[kind] += 1
            return
        self._standing.add(kind)
        self.note(part, reason, message)

    def note_over(self, part: str, reason: str, message: str) -> None:
        """Log that an error that lasted is over, if it was noted."""
        if (part, reason) in self._standing:
            self._standing.discard((part, reason))
            _logger.warning("%s", shortened(for_terminal(message), _LONGEST_MESSAGE))

    def note(self, part: str, reason: str, message: str, level: int = logging.WARNING) -> None:
        """Count an error and log it, unless one like it was logged within the last second.

        Args:
            part: Where it happened, such as ``frames`` or ``http``; a constant of the program.
            reason: Why, such as ``bad_token``; a constant of the program, as it becomes a metric's label.
            message: What happened and to whom, in one line; may hold text from outside.
            level: Level of the log line.
        """
        kind = (part, reason)
        self.counts[kind] += 1
        now = self._clock()
        if now - self._logged_at.get(kind, -_LOG_SECONDS) < _LOG_SECONDS:
            self._unlogged[kind] += 1
            return
        self._logged_at[kind] = now
        more = self._unlogged.pop(kind, 0)
        text = shortened(for_terminal(message), _LONGEST_MESSAGE)
        _logger.log(level, "%s%s", text, f" ({more:,} more like it)" if more else "")
