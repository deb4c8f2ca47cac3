"""Groups: alerts of one source that change at about the same time, for receivers of one message for them."""

from collections.abc import AsyncIterator, Callable

import anyio
import msgspec

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.subscriptions.subscription import Subscription


class AlertGroup(msgspec.Struct, frozen=True, kw_only=True, tag="alert_group"):
    """Alerts of one source.

    Attributes:
        source: Cache instance.
        level: The highest severity among them.
        alerts: Their newest states, in order.
    """

    source: str
    level: AlertLevel
    alerts: list[CacheAlert]


async def alert_groups(alerts: Subscription[CacheAlert], wait_seconds: float) -> AsyncIterator[AlertGroup]:
    """Yield a group a source of what comes within ``wait_seconds`` of an alert, an alert in it once.

    Alerts stay in their subscription until the group that they are in is yielded, so that it holds their
    newest states however long the groups before it took to deliver.

    Args:
        alerts: A subscription, such as ``stream.alerts()``.
        wait_seconds: Seconds to wait for further alerts.
    """
    while await alerts.wait():
        with anyio.move_on_after(wait_seconds):
            await alerts.wait_closed()
        for source in dict.fromkeys(alert.source for alert in alerts.buffered()):
            latest = {alert.fingerprint: alert for alert in alerts.take_all(_of(source))}
            if latest:
                level = max(alert.level for alert in latest.values())
                yield AlertGroup(source=source, level=level, alerts=list(latest.values()))


def _of(source: str) -> Callable[[CacheAlert], bool]:
    return lambda alert: alert.source == source
