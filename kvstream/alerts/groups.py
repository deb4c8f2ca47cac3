"""Groups: alerts of one source that change at about the same time, for whoever wants to be told once."""

from collections.abc import AsyncIterator

import anyio
import msgspec

from kvstream.alerts.types import AlertLevel, CacheAlert


class AlertGroup(msgspec.Struct, frozen=True, kw_only=True, tag="alert_group"):
    """Alerts of one source.

    Attributes:
        source: Cache instance.
        level: The highest level among them.
        alerts: Their last states, in order.
    """

    source: str
    level: AlertLevel
    alerts: list[CacheAlert]


async def alert_groups(alerts: AsyncIterator[CacheAlert], wait: float) -> AsyncIterator[AlertGroup]:
    """Yields a group a source of what comes within ``wait`` seconds of an alert, an alert in it once.

    Args:
        alerts: Such as ``stream.alerts()``; waiting for one must be safe to cancel.
        wait: Seconds.
    """
    async for first in alerts:
        latest: dict[str, dict[str, CacheAlert]] = {first.source: {first.fingerprint: first}}
        with anyio.move_on_after(wait):
            async for alert in alerts:
                latest.setdefault(alert.source, {})[alert.fingerprint] = alert
        for source, of in latest.items():
            level = max((alert.level for alert in of.values()), key=lambda level: level.severity)
            yield AlertGroup(source=source, level=level, alerts=list(of.values()))
