"""Alerts to an HTTP endpoint, as JSON or as Slack takes them, signed and tried again."""

import datetime
import hashlib
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from kvstream.alerts.groups import AlertGroup
from kvstream.alerts.types import AlertLevel, CacheAlert, alert_id
from kvstream.errors import KVStreamError, UndeliveredError
from kvstream.faults.retries import pause_seconds
from kvstream.notifiers.json_post import JsonPost
from kvstream.notifiers.signing import Signer
from kvstream.subscriptions.handler import Delivery
from kvstream.text.escape import for_slack, shortened
from kvstream.text.json import encode_json

__all__ = ["Webhook", "slack_payload"]

_SLACK_BLOCKS = 50  # that Slack takes in a message
_SLACK_SECTION = 3000  # characters that it takes in a section
_SLACK_TEXT = 30_000
_LONGEST_PAUSE = 5.0
_MARK = {AlertLevel.INFO: "🔵", AlertLevel.WARNING: "🟠", AlertLevel.CRITICAL: "🔴"}


class Webhook(Delivery):
    """A handler that posts to a URL: ``stream.on_alert(Webhook("https://…"))``.

    If the endpoint cannot take an alert (no connection, no answer in time, 408, 425, 429, 5xx), the alert
    waits in the stream in its newest state and is tried again until it is accepted or the stream ends. The
    pauses grow to half a minute, or are as long as ``Retry-After`` says. An alert that is refused (any other
    status) counts as undelivered. The stream waits for neither.

    Messages follow Standard Webhooks (https://www.standardwebhooks.com). ``webhook-id`` names an alert in one
    state, the same in each attempt and from each process, so that a receiver can skip repeats. With a secret,
    ``webhook-timestamp`` and ``webhook-signature`` prove when and by whom it was sent.

    Args:
        url: ``http://`` or ``https://``.
        payload: Makes the body of an alert, or of a group of them; by default its fields.
        secret: Signs each message: 24 random bytes or more in base64, with or without ``whsec_`` before it.
        timeout: Seconds for one attempt.
        give_up_seconds: Seconds for all attempts together when it is called outside of a stream.

    Attributes:
        destination: ``webhook`` and the host.

    Raises:
        ConfigError: If the URL cannot be posted to, or the secret cannot be used.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.
    """

    def __init__(
        self,
        url: str,
        payload: Callable[[Any], Any] = msgspec.to_builtins,
        *,
        secret: str | None = None,
        timeout: float = 5.0,
        give_up_seconds: float = 60.0,
    ) -> None:
        self._post = JsonPost(url, timeout=timeout)
        self._signer = None if secret is None else Signer(secret)
        self._payload, self._give_up_seconds = payload, give_up_seconds
        self.destination = f"webhook {self._post.place}"

    def prepare(self) -> None:
        """Load the certificates that verify the server.

        Raises:
            OSError: If they cannot be read.
        """
        self._post.prepare()

    async def deliver(self, item: CacheAlert | AlertGroup) -> None:
        """Post an alert or a group, once.

        Raises:
            UndeliveredError: If it may be taken later.
            KVStreamError: If it is refused.
        """
        body, headers = encode_json(self._payload(item)), {"webhook-id": message_id(item)}
        if self._signer is not None:
            now = datetime.datetime.now(datetime.UTC)
            headers |= self._signer.headers(headers["webhook-id"], body, now)
        await self._post.send(body, headers)

    async def __call__(self, item: CacheAlert | AlertGroup) -> None:
        """Post an alert or a group, again and again for ``give_up_seconds``.

        Raises:
            httpx2.HTTPError: If it was not taken.
            TimeoutError: If there was no answer in time.
        """
        end = anyio.current_time() + self._give_up_seconds
        failures = 0
        while True:
            try:
                return await self.deliver(item)
            except UndeliveredError as error:
                failures += 1
                pause = error.retry_after
                if pause is None:
                    pause = pause_seconds(failures, _LONGEST_PAUSE)
                if anyio.current_time() + pause >= end:
                    raise error.__cause__ or error  # noqa: B904 - the cause has its own
            except KVStreamError as error:
                raise error.__cause__ or error  # noqa: B904 - likewise
            await anyio.sleep(pause)


def message_id(item: CacheAlert | AlertGroup) -> str:
    """Return the ``webhook-id`` of an alert in one state, or of several: the same whoever sends it."""
    alerts = item.alerts if isinstance(item, AlertGroup) else [item]
    named = encode_json([alert_id(alert) for alert in alerts])
    return f"msg_{hashlib.blake2b(named, digest_size=16).hexdigest()}"


def slack_payload(group: AlertGroup) -> dict[str, Any]:
    """Return alerts of one source as one message for a Slack incoming webhook, or a compatible one."""
    titles, sections = [], []
    for alert in group.alerts:
        mark = "🟢" if alert.state == "resolved" else _MARK[alert.level]
        cache = for_slack(f"{alert.source}/{alert.tier}")
        title = f"{mark} {alert.state} {alert.level}: {for_slack(alert.rule)} on {cache}"
        message = for_slack(alert.message)
        body = message + (f"\nTry: {for_slack(alert.hint)}" if alert.hint else "")
        titles.append(f"{title}: {message}")
        sections.append(_section(f"*{title}*\n{body}"))
    if len(sections) > _SLACK_BLOCKS:
        more = len(sections) - _SLACK_BLOCKS + 1
        sections[_SLACK_BLOCKS - 1 :] = [_section(f"and {more} more alerts of {for_slack(group.source)}")]
    return {"text": shortened("\n".join(titles), _SLACK_TEXT), "blocks": sections}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": shortened(text, _SLACK_SECTION)}}
