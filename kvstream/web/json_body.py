"""JSON of requests, whole and bounded, and JSON of answers and refusals."""

from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kvstream.text.json import encode_json
from kvstream.web.messages import Refusal

T = TypeVar("T")

_MOST_BYTES = 65_536


class RefusedError(Exception):
    """Raised when a request asks for what it cannot have; ``refused`` answers with why.

    Attributes:
        status: HTTP status of the answer.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


async def json_body(request: Request, kind: type[T]) -> T:
    """Return what a request brings as JSON.

    Raises:
        RefusedError: If it is something else.
    """
    # Forms of other pages in a browser can send three types without asking first; this is none of them.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "send JSON, with the content type application/json")
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                raise RefusedError(413, f"at most {_MOST_BYTES:,} bytes are read")
    except ClientDisconnect:
        raise RefusedError(400, "the request is not whole") from None
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(400, str(error)) from None


def json_response(value: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(encode_json(value), status, media_type="application/json")


async def refused(request: Request, error: Exception) -> Response:
    """Answer a request with why it has no other answer: a ``RefusedError``, or settings that cannot be."""
    return json_response(Refusal(error=str(error)), error.status if isinstance(error, RefusedError) else 400)
