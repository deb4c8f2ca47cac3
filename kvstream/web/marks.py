"""What the HTTP API answers on marks: which there are, and how they are made and removed."""

import datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kvstream.errors import ConfigError
from kvstream.stream import KVStream
from kvstream.web.json_body import answered, json_body, json_response


class MarkRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``POST /api/marks`` takes.

    Attributes:
        text: What happened, in 1 to 256 characters.
        time: When, with a time zone; by default now, in event time.
        source: Pattern of the sources that it concerns.
    """

    text: str
    time: datetime.datetime | None = None
    source: str = "*"


class MarkRoutes:
    """Answers requests on marks.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: KVStream) -> None:
        self._stream = stream

    async def collection(self, request: Request) -> Response:
        """List the marks, of a source if one is named, or add one."""
        if request.method != "POST":
            return json_response({"marks": self._stream.marks(request.query_params.get("source") or None)})
        return await answered(self._add(request))

    async def _add(self, request: Request) -> Response:
        asked = await json_body(request, MarkRequest)
        if asked.time is not None and asked.time.tzinfo is None:
            raise ConfigError("mark: time needs a time zone, such as 2027-01-01T06:00:00Z")
        at = None if asked.time is None else asked.time.timestamp()
        return json_response(self._stream.mark(asked.text, timestamp=at, source=asked.source), 201)

    async def one(self, request: Request) -> Response:
        """Remove a mark."""
        if self._stream.unmark(request.path_params["id"]):
            return Response(status_code=204)
        return json_response({"error": "there is no mark with that id"}, 404)
