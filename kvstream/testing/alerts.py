"""CapturedAlerts: an alert handler that keeps every alert."""

from kvstream.alerts.types import CacheAlert


class CapturedAlerts:
    """A handler for ``KVStream.on_alert`` that keeps every alert, in order.

    Attributes:
        alerts: The alerts.

    Examples:
        >>> captured = CapturedAlerts()
        >>> captured.firing()
        []
    """

    def __init__(self) -> None:
        self.alerts: list[CacheAlert] = []

    def __call__(self, alert: CacheAlert) -> None:
        """Keep an alert."""
        self.alerts.append(alert)

    def firing(self) -> list[CacheAlert]:
        """Return the newest state of each alert that has not been resolved, in order of their start."""
        newest = {alert.fingerprint: alert for alert in self.alerts}
        return [alert for alert in newest.values() if alert.state == "firing"]
