"""What the HTTP API answers on marks: which there are, and how they are made and removed."""

from starlette.requests import Request
from starlette.responses import Response

from kvstream.stream import KVStream
from kvstream.web.json_body import RefusedError, json_body, json_response
from kvstream.web.messages import MarkRequest, Marks


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
            marks = self._stream.marks(request.query_params.get("source") or None)
            return json_response(Marks(marks=marks))
        asked = await json_body(request, MarkRequest)
        at = None if asked.time is None else asked.time.timestamp()
        return json_response(self._stream.mark(asked.text, timestamp=at, source=asked.source), 201)

    async def one(self, request: Request) -> Response:
        """Remove a mark."""
        if not self._stream.unmark(request.path_params["id"]):
            raise RefusedError(404, "there is no mark with that id")
        return Response(status_code=204)
