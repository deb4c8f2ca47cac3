"""Alerts to Prometheus Alertmanager, by its v2 API.

Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

import datetime
from typing import Any

import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.sinks.webhook import Webhook
from kvstream.stream import KVStream

_FORGOTTEN_SECONDS = 300.0  # after which Alertmanager takes an alert as over that it has not heard of again


class Alertmanager:
    """Tells Alertmanager of alerts as they change, and again with each summary while they fire.

    Args:
        url: Its address, such as ``http://alertmanager:9093``.
        timeout: Seconds for one attempt.
        give_up_after: Seconds for all attempts together.

    Raises:
        ConfigError: If the URL is none.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.

    Example:
        ``Alertmanager("http://localhost:9093").attach(stream)``
    """

    def __init__(self, url: str, *, timeout: float = 5.0, give_up_after: float = 60.0) -> None:
        self._webhook = Webhook(
            f"{url.rstrip('/')}/api/v2/alerts", timeout=timeout, give_up_after=give_up_after
        )

    def attach(self, stream: KVStream) -> None:
        """Makes it a handler of the stream's alerts and summaries."""
        stream.on_alert(self.tell)
        stream.on_summary(self.tell_again)

    async def tell(self, alert: CacheAlert) -> None:
        """Posts an alert that has fired or resolved."""
        await self._webhook.post([alertmanager_alert(alert, _now())])

    async def tell_again(self, summary: CacheMetricsSummary) -> None:
        """Posts all alerts that are firing and not muted, so that they are not taken as over."""
        firing = [msgspec.convert({**alert, "type": "alert"}, CacheAlert) for alert in summary.alerts]
        firing = [alert for alert in firing if not alert.muted_by]
        if firing:
            await self._webhook.post([alertmanager_alert(alert, _now()) for alert in firing])


def alertmanager_alert(alert: CacheAlert, now: datetime.datetime) -> dict[str, Any]:
    """An alert as Alertmanager's ``postableAlert``; one that is firing ends unless it is told again."""
    ends = now if alert.state == "resolved" else now + datetime.timedelta(seconds=_FORGOTTEN_SECONDS)
    return {
        "labels": {
            **alert.labels,
            "alertname": alert.rule,
            "severity": alert.level.value,
            "source": alert.source,
            "tier": alert.tier,
        },
        "annotations": {
            "summary": alert.message,
            "description": alert.hint,
            "value": f"{alert.value:.6g}",
            "threshold": f"{alert.threshold:.6g}",
        },
        "startsAt": datetime.datetime.fromtimestamp(alert.started_at, datetime.UTC).isoformat(),
        "endsAt": ends.isoformat(),
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
