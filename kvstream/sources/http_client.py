"""The complete answer of an HTTP server, up to a bound."""

from typing import Any

from kvstream.errors import ConfigError, MissingExtraError

_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 16 * 1024 * 1024


class FetchError(ConfigError):
    """Raised when a server does not answer, or with no success."""


async def fetch(url: str) -> bytes:
    """Return what a server answers.

    Raises:
        FetchError: If it does not, or with another status than 200, or with more than 16 MiB.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.
    """
    httpx2 = require_http()
    try:
        async with (
            httpx2.AsyncClient(timeout=_TIMEOUT_SECONDS) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise FetchError(f"{url} answers {answer.status_code}")
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise FetchError(f"{url} answers more than {_MOST_BYTES:,} bytes")
            return bytes(body)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise FetchError(f"{url} does not answer: {str(error) or type(error).__name__}") from error


def require_http() -> Any:
    """Return the HTTP library.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import httpx2
    except ImportError:
        raise MissingExtraError("reading http://", "zmq") from None
    return httpx2
