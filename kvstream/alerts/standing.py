"""StandingAlert: an alert that lasts for as long as its cause, published once unless it is silenced."""

from typing import Any

import msgspec
from msgspec.structs import replace

from kvstream.alerts.rule import lasted, resolved
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import CacheAlert


class StandingAlert:
    """One alert of a stream, from when it fires until it is resolved.

    Args:
        silences: Alerts not to be published.

    Attributes:
        alert: The alert while it fires; None otherwise.
    """

    def __init__(self, silences: Silences) -> None:
        self.alert: CacheAlert | None = None
        self._silences = silences
        self._published = False

    def save(self) -> dict[str, Any]:
        """Return the alert and whether it was published, as plain values."""
        return {"alert": msgspec.to_builtins(self.alert), "published": self._published}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved, without publishing it again."""
        self.alert = msgspec.convert(saved["alert"], CacheAlert | None)
        self._published = saved["published"]

    def fire(self, alert: CacheAlert) -> None:
        """Let an alert fire, to be published by ``to_publish``."""
        self.alert = alert

    def end_with_rule(self, now: float) -> CacheAlert | None:
        """Resolve the alert, as its rule was changed or removed; return it if it had been published."""
        return self.end("its rule was changed or removed", now)

    def end_as_over(self, now: float) -> CacheAlert | None:
        """Resolve the alert, as its cause is over; return it if it had been published."""
        return self.end("" if self.alert is None else lasted(now - self.alert.started_at), now)

    def end(self, message: str, now: float) -> CacheAlert | None:
        """Resolve the alert; return it if it had been published."""
        ended, published = self.alert, self._published
        self.alert, self._published = None, False
        if ended is None or not published:
            return None
        return resolved(ended, message, now)

    def to_publish(self, now: float) -> CacheAlert | None:
        """Return the alert if it fires, is not silenced, and has not been published yet."""
        if self.alert is None:
            return None
        silenced_by = self._silences.reason(self.alert, now)
        if silenced_by != self.alert.silenced_by:
            self.alert = replace(self.alert, silenced_by=silenced_by)
        if silenced_by or self._published:
            return None
        self._published = True
        return self.alert
