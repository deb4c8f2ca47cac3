"""AlertBuffer: the alerts that wait for one subscriber; beyond a limit, only the newest state of each."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from kvstream.alerts.types import CacheAlert
from kvstream.subscriptions.buffer import SubscriberPolicy


class AlertBuffer:
    """A buffer that loses messages and no state.

    Up to ``limit`` alerts wait as they were published. Once there are more, or one could not be
    delivered, only the newest state of each alert (fingerprint) waits, in the place of its oldest, until
    the buffer has been emptied; what that replaces is counted as superseded. An alert that began and
    ended meanwhile waits as resolved. More than ``limit`` may wait then, one an alert that fires or that
    the subscriber knows to fire; alerts that ended before the subscriber knew of them are dropped first.

    Args:
        limit: Alerts that wait with all their states.
        policy: Which of the alerts that began and ended unknown to drop, beyond the limit.

    Attributes:
        dropped: Alerts that began and ended unknown and were dropped.
        superseded: States that were replaced by newer ones.
    """

    def __init__(self, limit: int, policy: SubscriberPolicy = "drop_oldest") -> None:
        self.dropped = self.superseded = 0
        self._limit, self._policy = limit, policy
        # By a number while all states are kept, by fingerprint when only the newest are.
        self._waiting: OrderedDict[int | str, CacheAlert] = OrderedDict()
        self._next_number = 0
        self._by_fingerprint = False
        self._known: set[str] = set()  # fingerprints that the subscriber last took as firing
        self._ended_unknown: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, alert: CacheAlert) -> None:
        """Add an alert."""
        if not self._waiting:
            self._by_fingerprint = False
        if not self._by_fingerprint:
            if len(self._waiting) < self._limit:
                self._waiting[self._next_number] = alert
                self._next_number += 1
                return
            self._coalesce()
        self._replace(alert)
        while len(self._waiting) > self._limit and self._ended_unknown:
            fingerprint, _ = self._ended_unknown.popitem(last=self._policy == "drop_newest")
            del self._waiting[fingerprint]
            self.dropped += 1

    def put_back(self, alerts: Sequence[CacheAlert]) -> None:
        """Return alerts that could not be delivered to the front, but for those with newer states."""
        if not self._by_fingerprint:
            self._coalesce()
        for alert in reversed(alerts):
            self._known.add(alert.fingerprint)  # what ended stays owed to the subscriber
            if alert.fingerprint in self._waiting:
                self.superseded += 1
            else:
                self._replace(alert)
            self._waiting.move_to_end(alert.fingerprint, last=False)

    def items(self) -> Iterable[CacheAlert]:
        """Return what waits, oldest first."""
        return self._waiting.values()

    def take(self) -> CacheAlert:
        """Remove and return the oldest alert."""
        return self._take(next(iter(self._waiting)))

    def take_all(self, wanted: Callable[[CacheAlert], bool]) -> list[CacheAlert]:
        """Remove and return the alerts that are wanted, oldest first."""
        return [self._take(key) for key, alert in list(self._waiting.items()) if wanted(alert)]

    def _take(self, key: int | str) -> CacheAlert:
        alert = self._waiting.pop(key)
        self._ended_unknown.pop(alert.fingerprint, None)
        if alert.state == "resolved":
            self._known.discard(alert.fingerprint)
        else:
            self._known.add(alert.fingerprint)
        return alert

    def _coalesce(self) -> None:
        waiting = list(self._waiting.values())
        self._waiting.clear()
        self._by_fingerprint = True
        for alert in waiting:
            self._replace(alert)

    def _replace(self, alert: CacheAlert) -> None:
        """Make an alert the only state of its fingerprint, in the place of the one before."""
        fingerprint = alert.fingerprint
        if fingerprint in self._waiting:
            self.superseded += 1
        self._waiting[fingerprint] = alert
        self._ended_unknown.pop(fingerprint, None)
        if alert.state == "resolved" and fingerprint not in self._known:
            self._ended_unknown[fingerprint] = None
