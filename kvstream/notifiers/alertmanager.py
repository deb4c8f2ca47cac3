"""Alerts to Prometheus Alertmanager, by its v2 API.

Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

import datetime
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import anyio
from msgspec.structs import replace

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.notifiers.json_post import JsonPost
from kvstream.stream import KVStream
from kvstream.subscriptions.handler import Batching, Delivery
from kvstream.subscriptions.subscription import Subscription
from kvstream.text.escape import for_unicode
from kvstream.text.json import encode_json

__all__ = ["Alertmanager", "Post"]

_MOST_IN_A_POST = 256
_EXPIRES_SECONDS = 300.0  # after the last post, or five repeats


class Post(NamedTuple):
    """Alerts that are posted together.

    Attributes:
        alerts: At most one state of each alert.
        changed: Whether they fired or resolved, or just go on firing.
    """

    alerts: list[CacheAlert]
    changed: bool


class Alertmanager(Delivery):
    """Posts alerts to Alertmanager as they change, and again and again while they fire.

    Alertmanager resolves an alert that is not posted for a while. So firing alerts are posted every
    ``repeat_seconds``, and those that still fire when the process ends expire. Severity is a label there: an
    alert of a higher severity is a new one, and the one of the lower severity ends. Alerts that cannot be
    posted wait in the stream in their newest state. The heartbeat, if its rule is on, is posted as soon as
    the stream is open and with each repeat, whatever its severity; a dead man's switch behind Alertmanager
    notices when it expires.

    Args:
        url: Its address, such as ``http://alertmanager:9093``.
        timeout: Seconds for one attempt.
        repeat_seconds: Seconds between posts of what fires; an alert expires five minutes after the last
            post, or after five times that if that is longer.

    Attributes:
        destination: ``Alertmanager`` and the host.

    Raises:
        ConfigError: If the URL cannot be posted to.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.

    Examples:
        ``Alertmanager("http://localhost:9093").attach(stream)``
    """

    def __init__(self, url: str, *, timeout: float = 5.0, repeat_seconds: float = 60.0) -> None:
        self._post = JsonPost(f"{url.rstrip('/')}/api/v2/alerts", timeout=timeout)
        self._repeat_seconds = repeat_seconds
        self._posted: dict[str, CacheAlert] = {}  # by fingerprint, what was last taken as firing
        self.destination = f"Alertmanager {self._post.place}"

    def prepare(self) -> None:
        """Load the certificates that verify the server.

        Raises:
            OSError: If they cannot be read.
        """
        self._post.prepare()

    def attach(self, stream: KVStream, min_severity: AlertLevel = AlertLevel.INFO) -> None:
        """Attach it to a stream as a handler of alerts of a minimum severity."""

        async def posts(alerts: Subscription[CacheAlert]) -> AsyncIterator[Post]:
            repeat_at = anyio.current_time() + self._repeat_seconds
            more = True
            if (heartbeat := stream.heartbeat()) is not None:
                yield Post([heartbeat], changed=False)
            while more:
                with anyio.move_on_after(repeat_at - anyio.current_time()):
                    more = await alerts.wait()
                if batch := _next_batch(alerts):
                    yield Post(batch, changed=True)
                if anyio.current_time() >= repeat_at:
                    firing = stream.firing(min_severity)
                    if (heartbeat := stream.heartbeat()) is not None:
                        firing.append(heartbeat)
                    for start in range(0, len(firing), _MOST_IN_A_POST):
                        yield Post(firing[start : start + _MOST_IN_A_POST], changed=False)
                    self._forget_all_but(firing)
                    repeat_at = anyio.current_time() + self._repeat_seconds

        batching: Batching[CacheAlert] = Batching(posts, _changed_alerts)
        stream.on_alert_batch(self, batching, min_severity)

    async def deliver(self, item: Post) -> None:
        """Post alerts that changed or still fire, and the end of those with their former severity.

        Raises:
            UndeliveredError: If they may be taken later.
            KVStreamError: If they are refused.
        """
        now = datetime.datetime.now(datetime.UTC)
        left = [
            replace(before, state="resolved")
            for alert in item.alerts
            if (before := self._posted.get(alert.fingerprint)) is not None and before.level != alert.level
        ]
        expires = datetime.timedelta(seconds=max(_EXPIRES_SECONDS, 5 * self._repeat_seconds))
        alerts = [alertmanager_alert(alert, now, expires) for alert in [*left, *item.alerts]]
        await self._post.send(encode_json(alerts))
        for alert in item.alerts:
            if alert.state == "resolved":
                self._posted.pop(alert.fingerprint, None)
            else:
                self._posted[alert.fingerprint] = alert

    def _forget_all_but(self, firing: Sequence[CacheAlert]) -> None:
        """Forget alerts of sources that are gone; those with an end still to be posted expire."""
        fires = {alert.fingerprint for alert in firing}
        self._posted = {name: alert for name, alert in self._posted.items() if name in fires}


def _next_batch(alerts: Subscription[CacheAlert]) -> list[CacheAlert]:
    """Take the oldest alerts that wait, up to the second state of one of them."""
    batch: dict[str, CacheAlert] = {}
    while len(batch) < _MOST_IN_A_POST:
        oldest = next(iter(alerts.buffered()), None)
        if oldest is None or oldest.fingerprint in batch:
            break
        batch[oldest.fingerprint] = alerts.take()
    return list(batch.values())


def _changed_alerts(post: Post) -> Sequence[CacheAlert]:
    return post.alerts if post.changed else ()


def alertmanager_alert(
    alert: CacheAlert, now: datetime.datetime, expires: datetime.timedelta
) -> dict[str, Any]:
    """Return an alert as Alertmanager's ``postableAlert``.

    Alertmanager refuses what ends before it starts, so that an engine's clock that is ahead counts for
    nothing: an alert starts now at the latest, and in 1970 at the earliest, as a date has a first year.

    Args:
        alert: The alert.
        now: Time of this process.
        expires: How long it fires unless it is posted again.
    """
    labels = {
        **{_label_name(name): value for name, value in alert.labels.items()},
        "alertname": alert.rule,
        "severity": alert.level.value,
        "source": alert.source,
        "tier": alert.tier,
    }
    annotations = {
        "summary": alert.message,
        "description": alert.hint,
        "value": f"{alert.value:.6g}",
        "threshold": f"{alert.threshold:.6g}",
    }
    began = min(max(alert.started_at, 0.0), now.timestamp())
    started = datetime.datetime.fromtimestamp(began, datetime.UTC)
    ends = now if alert.state == "resolved" else now + expires
    return {
        "labels": _texts(labels),
        "annotations": _texts(annotations),
        "startsAt": min(started, now).isoformat(),
        "endsAt": ends.isoformat(),
    }


def _label_name(name: str) -> str:
    """Return a valid label name: letters, digits and underscores, not beginning with a digit.

    Source: https://prometheus.io/docs/concepts/data_model/
    """
    return re.sub(r"^(?=[0-9])|[^a-zA-Z0-9_]", "_", name) or "_"


def _texts(texts: dict[str, str]) -> dict[str, str]:
    """Return what can be encoded; empty texts, which are none to Alertmanager, are left out."""
    return {name: for_unicode(text) for name, text in texts.items() if text}
