"""The complete answer of an HTTP server, bounded in size and time."""

import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import anyio
from anyio import to_thread

from kvstream.errors import ConfigError, MissingExtraError
from kvstream.faults.connecting import ConnectionFailure, connection_failure

_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 16 * 1024 * 1024
_NO_HTTP = ConnectionFailure("protocol", "what answers there does not speak HTTP, or broke off its answer")


class FetchError(ConfigError):
    """Raised when a server does not answer, or with no success.

    Attributes:
        failure: Why there was no answer; None if there was one.
    """

    def __init__(self, text: str, failure: ConnectionFailure | None = None) -> None:
        super().__init__(text)
        self.failure = failure


class Answer(NamedTuple):
    """What an HTTP server answers."""

    status: int
    body: bytes


async def fetch(url: str) -> bytes:
    """Return what a server answers.

    Raises:
        FetchError: If it does not, or with another status than 200, or with more than 16 MiB.
        MissingExtraError: If ``kvstream[zmq]`` is not installed.
    """
    async with await open_client(url) as client:
        answer = await request(client, "GET", url)
    if answer.status != 200:
        raise FetchError(f"{url} answers {answer.status}")
    return answer.body


async def open_client(url: str, feature: str = "reading http://", extra: str = "zmq") -> Any:
    """Return an HTTP client for requests to one server, to be used as an async context manager.

    Certificates are read once, in a thread, as that takes longer than a frame of events; for ``http://`` none
    are.

    Args:
        url: A URL of the server.
        feature: What needs the HTTP library, for the error.
        extra: The extra that it comes with.

    Raises:
        FetchError: If the certificates that verify the server cannot be read, or the proxy that the
            environment names cannot be used.
        MissingExtraError: If the library is not installed.
    """
    http = require_http(feature, extra)
    if url[:6].lower() == "https:":
        try:
            verify = await to_thread.run_sync(_certificates)
        except OSError as error:
            words = f"the certificates that verify the server cannot be read: {error.strerror or error}"
            raise FetchError(f"{url}: {words}", ConnectionFailure("certificate", words)) from error
    else:
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which trusts nobody
    try:
        return http.AsyncClient(verify=verify)
    except (ImportError, ValueError, http.InvalidURL) as error:
        words = f"the proxy that the environment names cannot be used: {error}"
        raise FetchError(f"{url}: {words}", ConnectionFailure("other", words)) from error


@cache
def _certificates() -> ssl.SSLContext:
    certificates: ssl.SSLContext = require_http().create_ssl_context()
    return certificates


async def request(
    client: Any,
    method: str,
    url: str,
    headers: Mapping[bytes, bytes] | None = None,
    content: bytes | None = None,
    seconds: float = _TIMEOUT_SECONDS,
) -> Answer:
    """Return what a server answers to a request, whatever its status.

    Args:
        client: An HTTP client, as ``open_client`` returns it.
        method: Such as ``GET``.
        url: What to ask for.
        headers: Headers besides the client's.
        content: Body of the request.
        seconds: Until the answer must be complete.

    Raises:
        FetchError: If there is no complete answer, or one of more than 16 MiB.
    """
    httpx2 = require_http()
    failure = None
    try:
        with anyio.fail_after(seconds):
            # Of compressed answers, a few bytes can hold gigabytes.
            sent = {b"accept-encoding": b"identity", **(headers or {})}
            async with client.stream(method, url, headers=sent, content=content, timeout=None) as answer:
                body = bytearray()
                async for piece in answer.aiter_raw():
                    body += piece
                    if len(body) > _MOST_BYTES:
                        raise FetchError(f"{url} answers more than {_MOST_BYTES:,} bytes")
                return Answer(answer.status_code, bytes(body))
    except httpx2.InvalidURL as error:
        failure = ConnectionFailure("other", f"it is no URL: {error}")
        raise FetchError(f"{url} is no URL: {error}", failure) from error
    except (httpx2.HTTPError, OSError) as error:
        failure = connection_failure(error, seconds)
        if failure.kind == "other" and isinstance(error, httpx2.RemoteProtocolError):
            failure = _NO_HTTP
        raise FetchError(f"{url} does not answer: {failure.words}", failure) from error


def require_http(feature: str = "reading http://", extra: str = "zmq") -> Any:
    """Return the HTTP library.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import httpx2
    except ImportError:
        raise MissingExtraError(feature, extra) from None
    return httpx2
