"""What the HTTP API answers on silences: which there are, and how they begin and end."""

import datetime

from starlette.requests import Request
from starlette.responses import Response

from kvstream.alerts.silences import Silence
from kvstream.errors import ConfigError
from kvstream.stream import KVStream
from kvstream.web.json_body import RefusedError, json_body, json_response
from kvstream.web.messages import MAX_SILENCE_SECONDS, AcknowledgeRequest, SilenceRequest, Silences


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
            return json_response(Silences(silences=self._stream.silences()))
        asked = await json_body(request, SilenceRequest)
        return json_response(await self._stream.silence(self._silence(asked)), 201)

    async def one(self, request: Request) -> Response:
        """End a silence."""
        if not await self._stream.unsilence(request.path_params["id"]):
            raise RefusedError(404, "there is no silence with that id")
        return Response(status_code=204)

    async def acknowledge(self, request: Request) -> Response:
        """Silence the incident of an alert that fires until it is over."""
        asked = await json_body(request, AcknowledgeRequest)
        silence = await self._stream.acknowledge(request.path_params["fingerprint"], asked.reason)
        if silence is None:
            raise RefusedError(404, "no alert with that fingerprint fires")
        return json_response(silence, 201)

    def _silence(self, asked: SilenceRequest) -> Silence:
        until = asked.until
        if (until is None) == (asked.duration_seconds is None):
            raise ConfigError("silence: give either until or duration_seconds")
        if asked.duration_seconds is not None:
            if not 0.0 < asked.duration_seconds <= MAX_SILENCE_SECONDS:
                raise ConfigError(
                    f"silence: duration_seconds must be above 0, at most {MAX_SILENCE_SECONDS:,.0f}"
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
