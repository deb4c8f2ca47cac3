"""Alerts to Teams, PagerDuty, Opsgenie and all other services that the library apprise knows."""

import threading
from typing import Any

import anyio
from anyio import to_thread

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.errors import ConfigError, MissingExtraError, UndeliveredError
from kvstream.subscriptions.handler import Delivery
from kvstream.text.escape import for_unicode, shortened

__all__ = ["Apprise"]

_SHOWN = 300  # characters of what apprise says of a failure
_TYPES = {AlertLevel.INFO: "info", AlertLevel.WARNING: "warning", AlertLevel.CRITICAL: "failure"}


class Apprise(Delivery):
    """A handler that notifies a service: ``stream.on_alert(Apprise("pagerduty://KEY@KEY?action=map"))``.

    The title of a message is the same when an alert fires and when it resolves, and a resolved one has the
    type ``success``. By these, PagerDuty (with ``action=map``) and Opsgenie close what they opened. Alerts
    that a service does not accept wait in the stream in their newest state and are tried again.

    Args:
        url: A URL of apprise, which names the service: https://appriseit.com/services
        timeout: Seconds for one attempt. Apprise itself continues after it; until it is done, others fail.

    Attributes:
        destination: ``apprise`` and the service; the URL is a secret.

    Raises:
        ConfigError: If apprise does not accept the URL.
        MissingExtraError: If ``kvstream[apprise]`` is not installed.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        try:
            import apprise
        except ImportError:
            raise MissingExtraError("notifying such services", "apprise") from None
        self._services = apprise.Apprise()
        service = apprise.Apprise.instantiate(url)
        if service is None or not self._services.add(service):
            scheme, separator, _ = url.partition("://")
            named = shortened(f"{scheme}://…", _SHOWN) if separator else "this URL"
            raise ConfigError(
                f"apprise cannot use {named}: https://appriseit.com/services says how the URL of a service "
                "is written, such as pagerduty://KEY@KEY"
            )
        self.destination = f"apprise {service.service_name}"
        self._timeout = timeout
        self._attempt = threading.Lock()  # held by the thread of an attempt

    async def deliver(self, item: CacheAlert) -> None:
        """Notify the service of an alert, once.

        Raises:
            UndeliveredError: If it was not taken, or not in time.
        """
        with anyio.move_on_after(self._timeout) as limit:
            failure = await to_thread.run_sync(self._notify, item, abandon_on_cancel=True)
        if limit.cancelled_caught:
            raise UndeliveredError(f"not taken within {self._timeout:g} s")
        if failure is not None:
            raise UndeliveredError(failure)

    def _notify(self, alert: CacheAlert) -> str | None:
        """Return why an alert was not taken; None if it was."""
        if not self._attempt.acquire(blocking=False):
            return "the attempt before has not come to its end"
        try:
            return self._attempted(alert)
        finally:
            self._attempt.release()

    def _attempted(self, alert: CacheAlert) -> str | None:
        logged: list[str] = []

        def keep(entry: Any, _: Any) -> None:
            logged.append(entry.message)

        taken = self._services.notify(
            body=_body(alert),
            title=for_unicode(f"{alert.rule} on {alert.source}/{alert.tier}"),
            notify_type="success" if alert.state == "resolved" else _TYPES[alert.level],
            body_format="text",
            log_callback=keep,
        )
        return None if taken else shortened(" ".join(logged), _SHOWN) or "not taken"


def _body(alert: CacheAlert) -> str:
    lines = [
        f"{alert.state} {alert.level}: {alert.message}",
        *([f"Try: {alert.hint}"] if alert.hint else []),
        *([alert.runbook] if alert.runbook else []),
    ]
    return for_unicode("\n".join(lines))
