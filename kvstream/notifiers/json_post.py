"""JsonPost: one attempt to post JSON to a URL, with every size and time bounded."""

import re
import ssl
from collections.abc import Mapping
from typing import Any

import anyio

from kvstream.errors import ConfigError, MissingExtraError, UndeliveredError
from kvstream.faults.answers import failed_answer, may_pass
from kvstream.faults.connecting import connection_failure

_HOST = re.compile(rb"[\w.-]+|[0-9a-fA-F:.]*:[0-9a-fA-F:.%\w]*")


class JsonPost:
    """Posts JSON to a URL.

    Args:
        url: ``http://`` or ``https://``.
        timeout: Seconds for one attempt.

    Attributes:
        place: Scheme, host and port of the URL, which is all of it that may be shown: its path, its query
            and what stands before ``@`` can be secrets.

    Raises:
        ConfigError: If the URL cannot be posted to.
        MissingExtraError: If ``kvstream[webhook]`` is not installed.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        try:
            import httpx2
        except ImportError:
            raise MissingExtraError("posting alerts", "webhook") from None
        self._http: Any = httpx2
        self._url, self.place = self._checked(url)
        self._timeout = timeout
        self._certificates: ssl.SSLContext | None = None

    def prepare(self) -> ssl.SSLContext:
        """Load the certificates that verify servers, once: it takes longer than a frame of events.

        Returns:
            The context that holds them.

        Raises:
            OSError: If they cannot be read.
        """
        if self._certificates is None:
            self._certificates = self._http.create_ssl_context()
        return self._certificates

    def _checked(self, url: str) -> tuple[Any, str]:
        try:
            parsed = self._http.URL(url)
            host, port = parsed.host, parsed.port
        except (self._http.InvalidURL, ValueError) as error:
            raise ConfigError(f"cannot post to {_shown(url)!r}: {error}; write https://HOST/PATH") from None
        if parsed.scheme not in ("http", "https"):
            raise ConfigError(
                f"cannot post to {_shown(url)!r}: its scheme is neither http nor https; write https://HOST/PATH"
            )
        if not _HOST.fullmatch(parsed.raw_host):
            raise ConfigError(f"cannot post to {_shown(url)!r}: it names no host; write https://HOST/PATH")
        if port is not None and not 0 < port < 65_536:
            raise ConfigError(f"cannot post to {_shown(url)!r}: it names no port; write https://HOST/PATH")
        named = f"[{host}]" if ":" in host else host
        return parsed, f"{parsed.scheme}://{named}{'' if port is None else f':{port}'}"

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Post JSON, once.

        Args:
            body: The JSON.
            headers: Headers besides those of any JSON.

        Raises:
            UndeliveredError: If there was no answer in time, or one that may change (408, 425, 429, 5xx),
                with the ``Retry-After`` of 429 and 503, at most ten minutes. The httpx2 error is its cause.
            KVStreamError: If the endpoint refuses the body; an ``httpx2.HTTPStatusError`` is its cause.
            OSError: If certificates cannot be read that were not loaded before.
        """
        certificates = self.prepare()
        sent = {"Content-Type": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        try:
            with anyio.fail_after(self._timeout):
                async with (
                    self._http.AsyncClient(verify=certificates, timeout=self._timeout) as client,
                    client.stream("POST", self._url, content=body, headers=sent) as response,
                ):
                    await self._check(response)
        except self._http.TransportError as error:
            raise UndeliveredError(connection_failure(error, self._timeout).words) from error
        except TimeoutError as error:
            raise UndeliveredError(f"no answer within {self._timeout:g} s") from error

    async def _check(self, response: Any) -> None:
        if response.is_success:
            return
        status, phrase = response.status_code, response.reason_phrase
        body = b""
        if not may_pass(status):
            async for some in response.aiter_raw():
                body = some
                break
        failure = failed_answer(status, phrase, response.headers.get("Retry-After", ""), body)
        raise failure from self._http.HTTPStatusError(
            f"{self.place} {failure}", request=response.request, response=response
        )


def _shown(url: str) -> str:
    """Return the parts of an invalid URL that hold no secret: its scheme, and a complete host."""
    scheme, separator, rest = url.rpartition("://")
    host = rest.partition("/")[0].partition("?")[0].partition("#")[0].rpartition("@")[2]
    return f"{scheme}{separator}{host}"
