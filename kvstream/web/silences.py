"""What the HTTP API answers on silences: which there are, and how they begin and end."""

import datetime
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kvstream.alerts.silences import Silence
from kvstream.errors import ConfigError
from kvstream.stream import KVStream
from kvstream.text.json import encode_json

T = TypeVar("T")

_MOST_BYTES = 65_536
_LONGEST_SECONDS = 366 * 86_400.0


class SilenceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``POST /api/silences`` takes: which alerts, and either when it ends or how long it lasts.

    Attributes:
        rule: Pattern of the rule's name.
        source: Pattern of the source.
        tier: Pattern of the tier.
        until: Its end, in event time, with a time zone.
        duration_seconds: How long it lasts from now, in event time; at most 366 days.
        reason: Why, for those who wonder.
    """

    rule: str = "*"
    source: str = "*"
    tier: str = "*"
    until: datetime.datetime | None = None
    duration_seconds: float | None = None
    reason: str = "silenced"


class AcknowledgeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``POST /api/alerts/FINGERPRINT/acknowledge`` takes."""

    reason: str = "acknowledged"


class SilenceRoutes:
    """Answers requests on silences.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: KVStream) -> None:
        self._stream = stream

    async def collection(self, request: Request) -> Response:
        """List the silences, or begin one."""
        if request.method != "POST":
            return _json({"silences": self._stream.silences()})
        try:
            asked = await _body(request, SilenceRequest)
            return _json(await self._stream.silence(self._silence(asked)), 201)
        except _RefusedError as refused:
            return refused.response
        except ConfigError as error:
            return _json({"error": str(error)}, 400)

    async def one(self, request: Request) -> Response:
        """End a silence."""
        if await self._stream.unsilence(request.path_params["id"]):
            return Response(status_code=204)
        return _json({"error": "there is no silence with that id"}, 404)

    async def acknowledge(self, request: Request) -> Response:
        """Silence the incident of an alert that fires until it is over."""
        try:
            asked = await _body(request, AcknowledgeRequest)
            silence = await self._stream.acknowledge(request.path_params["fingerprint"], asked.reason)
        except _RefusedError as refused:
            return refused.response
        except ConfigError as error:
            return _json({"error": str(error)}, 400)
        if silence is None:
            return _json({"error": "no alert with that fingerprint fires"}, 404)
        return _json(silence, 201)

    def _silence(self, asked: SilenceRequest) -> Silence:
        until = asked.until
        if (until is None) == (asked.duration_seconds is None):
            raise ConfigError("silence: give either until or duration_seconds")
        if asked.duration_seconds is not None:
            if not 0.0 < asked.duration_seconds <= _LONGEST_SECONDS:
                raise ConfigError(
                    f"silence: duration_seconds must be above 0, at most {_LONGEST_SECONDS:,.0f}"
                )
            end = self._stream.event_time(asked.source) + asked.duration_seconds
            try:
                until = datetime.datetime.fromtimestamp(end, datetime.UTC)
            except (OverflowError, ValueError, OSError):
                raise ConfigError(
                    "silence: duration_seconds is too far from the time of the events"
                ) from None
        return Silence(
            rule=asked.rule, source=asked.source, tier=asked.tier, until=until, reason=asked.reason
        )


class _RefusedError(Exception):
    """Raised when a request's body cannot be used."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.response = _json({"error": why}, status)


async def _body(request: Request, kind: type[T]) -> T:
    """Return what a request brings as JSON.

    Raises:
        _RefusedError: If it is something else.
    """
    # Forms of other pages in a browser can send three types without asking first; this is none of them.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _RefusedError(415, "send JSON, with the content type application/json")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                raise _RefusedError(413, f"at most {_MOST_BYTES:,} bytes are read")
    except ClientDisconnect:
        raise _RefusedError(400, "the request is not whole") from None
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _RefusedError(400, str(error)) from None


def _json(value: Any, status: int = 200) -> Response:
    return Response(encode_json(value), status, media_type="application/json")
