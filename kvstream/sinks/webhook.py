"""Alerts to an HTTP endpoint, as JSON or as Slack takes them, signed and retried."""

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import msgspec

from kvstream.alerts.groups import AlertGroup
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.errors import ConfigError, MissingExtraError

SIGNATURE_HEADER = "X-Kvstream-Signature"

_SLACK_BLOCKS = 50  # as many as Slack takes in a message
_MARK = {AlertLevel.INFO: "🔵", AlertLevel.WARNING: "🟠", AlertLevel.CRITICAL: "🔴"}


class Webhook:
    """A handler that posts to a URL: ``stream.on_alert(Webhook("https://…"))``.

    What the endpoint cannot take (no connection, 429, 5xx) is tried again with growing pauses; what it
    refuses, or does not take in time, raises, so that the stream counts it as a failure of the handler.
    Alerts wait meanwhile in the handler's own bounded buffer; the stream does not.

    Args:
        url: ``http://`` or ``https://``.
        payload: Makes the body of an alert, or of a group of them; by default its fields.
        secret: Signs each body, as ``signature`` says.
        timeout: Seconds for one attempt.
        give_up_after: Seconds for all attempts together.

    Raises:
        ConfigError: If the URL is none.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.
    """

    def __init__(
        self,
        url: str,
        payload: Callable[[Any], Any] = msgspec.to_builtins,
        *,
        secret: str | None = None,
        timeout: float = 5.0,
        give_up_after: float = 60.0,
    ) -> None:
        try:
            import httpx2
            import stamina
        except ImportError:
            raise MissingExtraError("posting alerts", "webhook") from None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no URL to post to; write https://HOST/PATH")
        self.url, self._payload, self._secret = url, payload, secret
        self._timeout = timeout
        # Made once, as loading certificates takes longer than a frame of events.
        self._certificates = httpx2.create_ssl_context()
        self._http: Any = httpx2

        def can_be_tried_again(error: Exception) -> bool:
            if isinstance(error, httpx2.HTTPStatusError):
                return error.response.status_code == 429 or error.response.status_code >= 500
            return isinstance(error, httpx2.TransportError)

        self._send = stamina.retry(on=can_be_tried_again, attempts=None, timeout=give_up_after)(self._try)

    async def __call__(self, alert: CacheAlert | AlertGroup) -> None:
        """Posts an alert or a group.

        Raises:
            httpx2.HTTPError: If it was not taken.
        """
        await self.post(self._payload(alert))

    async def post(self, payload: Any) -> None:
        """Posts a body as JSON."""
        await self._send(msgspec.json.encode(payload))

    async def _try(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = signature(self._secret, body, int(time.time()))
        async with self._http.AsyncClient(verify=self._certificates, timeout=self._timeout) as client:
            (await client.post(self.url, content=body, headers=headers)).raise_for_status()


def signature(secret: str, body: bytes, at: int) -> str:
    """``t={at},v1={hex}``: HMAC-SHA256 of ``{at}.{body}``, so that neither can be changed later.

    Args:
        secret: Known to both sides.
        body: The body as sent.
        at: Seconds since the Unix epoch.
    """
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def slack_payload(group: AlertGroup) -> dict[str, Any]:
    """Alerts of one source as one message for a Slack incoming webhook, and for what takes the same."""
    titles, sections = [], []
    for alert in group.alerts:
        mark = "🟢" if alert.state == "resolved" else _MARK[alert.level]
        title = f"{mark} {alert.state} {alert.level}: {alert.rule} on {alert.source}/{alert.tier}"
        said = alert.message + (f"\nTry: {alert.hint}" if alert.hint else "")
        titles.append(f"{title}: {alert.message}")
        text = {"type": "mrkdwn", "text": f"*{_plain(title)}*\n{_plain(said)}"}
        sections.append({"type": "section", "text": text})
    return {"text": "\n".join(titles), "blocks": sections[:_SLACK_BLOCKS]}


def _plain(text: str) -> str:
    """Text in which Slack's control characters are themselves.

    Source: https://docs.slack.dev/messaging/formatting-message-text
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
