"""JSON of requests, whole and bounded, and JSON of answers."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kvstream.errors import ConfigError
from kvstream.text.json import encode_json
from kvstream.web.messages import Refusal

T = TypeVar("T")

_MOST_BYTES = 65_536


class RefusedError(Exception):
    """Raised when a request's body cannot be used.

    Attributes:
        response: What the client is answered.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.response = refusal(why, status)


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


async def answered(answer: Awaitable[Response]) -> Response:
    """Return an answer; what a request asks for and cannot have is answered with why."""
    try:
        return await answer
    except RefusedError as refused:
        return refused.response
    except ConfigError as error:
        return refusal(str(error), 400)


def json_response(value: Any, status: int = 200) -> Response:
    """Return an answer of JSON."""
    return Response(encode_json(value), status, media_type="application/json")


def refusal(why: str, status: int) -> Response:
    """Return an answer that says why there is no other."""
    return json_response(Refusal(error=why), status)
