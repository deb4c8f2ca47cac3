"""Guard: who may see a stream, by a token or by the host that a request names, and what browsers may do."""

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvstream.errors import ConfigError
from kvstream.faults.log import FaultLog
from kvstream.text.escape import shortened

COOKIE = "kvstream_session"
_OPEN_TO_ALL = ("/healthz", "/readyz")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_NEEDS_TOKEN = "this needs a token: a bearer token, or /?token=… in a browser\n"  # noqa: S105 - is none
_OTHER_ORIGIN = "only the page itself may change anything here\n"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_NEEDS_HOST = (
    "this host name is not served without a token: use localhost or 127.0.0.1, set a token, or name the host "
    "in allowed_hosts\n"
)


class Access:
    """Who may come: whoever brings the token, or names one of some hosts, or everybody.

    Args:
        token: What requests must bring, if anything.
        allowed_hosts: Host names besides those of loopback; without any, a token makes the host free.
        authenticated: Somebody else has asked who comes already, so that neither is asked for.

    Attributes:
        token: The token as bytes, if there is one.
        hosts: Host names that may be asked for besides those of loopback; None is any.

    Raises:
        ConfigError: If the token or a host name cannot be used, or they contradict each other.
    """

    def __init__(
        self, token: str | None = None, allowed_hosts: Iterable[str] = (), authenticated: bool = False
    ) -> None:
        if isinstance(allowed_hosts, str):
            raise ConfigError("allowed_hosts is a list of host names, not one text")
        hosts = frozenset(map(_checked_host, allowed_hosts))
        if authenticated and (token is not None or hosts):
            raise ConfigError("authenticated=True asks for nothing: leave out token and allowed_hosts")
        self.token = None if token is None else _checked_token(token)
        self.hosts = None if authenticated or (self.token is not None and not hosts) else hosts

    def is_served(self, host: str) -> bool:
        """Return whether a host name may be asked for: no other can be pointed at this machine."""
        return self.hosts is None or host in self.hosts or _is_loopback(host)

    def matches(self, candidate: bytes) -> bool:
        """Return whether something is the token, in constant time."""
        return self.token is not None and hmac.compare_digest(candidate, self.token)

    @property
    def cookie(self) -> str:
        """Return what a browser keeps instead of the token.

        Derived from the token, so that it outlives a reload and a restart, needs no memory on this side and
        ends with the token; it is of no use where the token itself is asked for, as by producers.
        """
        assert self.token is not None  # noqa: S101
        return hmac.new(self.token, b"kvstream dashboard session 1", hashlib.sha256).hexdigest()

    def is_cookie(self, candidate: bytes) -> bool:
        """Return whether something is the cookie of a browser that brought the token."""
        return hmac.compare_digest(candidate, self.cookie.encode())


def _checked_token(token: str) -> bytes:
    try:
        encoded = token.encode("utf-8", "surrogateescape")  # bytes of the environment stay what they are
    except UnicodeEncodeError:
        raise ConfigError("the token is no text that could be sent") from None
    if not encoded.strip():
        raise ConfigError("the token is empty: set one, or leave it out")
    return encoded


def _checked_host(name: str) -> str:
    host = host_of(name.encode("utf-8", "replace"))
    if not host or any(c in name for c in "*/?#@ "):
        raise ConfigError(
            f"{name!r} is no host name; to leave it to the application who may come, say authenticated=True"
        )
    return host


def host_of(header: bytes) -> str:
    """Return the name in a ``Host`` header without its port, in small letters; empty if it is none."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        host, end, port = text[1:].partition("]")
        return host if end and (not port or port[0] == ":") else ""
    host, _, port = text.partition(":")
    return host.removesuffix(".") if ":" not in port else text  # an IPv6 address without brackets


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Answers requests of who may not come, and adds what keeps browsers from doing anything else.

    A browser brings the token once as ``/?token=…`` and has a cookie from then on, which scripts cannot
    read. An error of the application below ends the request that it concerns and is counted.

    Args:
        app: The application that it guards.
        access: Who may come.
        faults: Where refusals and errors are noted.
    """

    def __init__(self, app: ASGIApp, access: Access, faults: FaultLog) -> None:
        self._app, self._access, self._faults = app, access, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in own),
                ]
            await send(message)

        try:
            await self._answer(scope)(scope, receive, send_with_headers)
        except Exception as error:  # whatever a request does, it ends that request alone
            self._note_failure(scope, error)
            if not started:
                await Response("internal error\n", 500, media_type="text/plain")(
                    scope, receive, send_with_headers
                )

    def _note_failure(self, scope: Scope, error: Exception) -> None:
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        asked = f"{scope['method']} {scope['path']}"  # and not what stands behind it, where a token can be
        self._faults.note(
            "http", "request_failed", f"{asked} failed: {type(error).__name__}: {error}", logging.ERROR
        )

    def _answer(self, scope: Scope) -> ASGIApp:
        """Return what answers a request."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in _OPEN_TO_ALL:
            return self._app
        if "\0" in path:  # which makes the file system raise where a path is that of a file
            return Response("Not Found", 404, media_type="text/plain")
        hosts = _values(scope, b"host")
        host = host_of(hosts[0]) if len(hosts) == 1 else ""
        if not self._access.is_served(host):
            named = f"for the host {shortened(host, 100)}" if host else "that names no host"
            self._faults.note("http", "bad_host", f"refused an HTTP request {named}")
            return Response(_NEEDS_HOST, 421, media_type="text/plain")
        if scope["method"] not in _SAFE_METHODS and not _is_same_origin(scope, hosts):
            self._faults.note("http", "other_origin", "refused a change that another site asked for")
            return Response(_OTHER_ORIGIN, 403, media_type="text/plain")
        if self._access.token is None:
            return self._app
        return self._with_token(scope, is_page=path in ("", "/"))

    def _with_token(self, scope: Scope, is_page: bool) -> ASGIApp:
        asked = _taken_from_query(scope)  # wherever it stands, so that no server has it in its access log
        if not is_page:
            asked = None
        bearers = [value[7:].strip() for value in _values(scope, b"authorization") if _is_bearer(value)]
        cookies = _cookies(scope)
        if any(map(self._access.matches, bearers)) or any(map(self._access.is_cookie, cookies)):
            return self._app if asked is None else self._welcome(scope, None)
        if asked is not None and self._access.matches(asked):
            return self._welcome(scope, self._access.cookie)
        if bearers or cookies or asked is not None:
            self._faults.note("http", "bad_token", "refused a request with a wrong token")
        return Response(_NEEDS_TOKEN, 401, {"www-authenticate": "Bearer"}, "text/plain")

    def _welcome(self, scope: Scope, cookie: str | None) -> Response:
        """Send a browser to the page, without a token in its address.

        Where to is said relative to where it is, and the cookie is without a path, for which browsers take
        that of the page: both stay right behind a proxy that strips a prefix of which we know nothing.
        """
        welcome = RedirectResponse("./", 303)
        if cookie is not None:
            welcome.set_cookie(
                COOKIE, cookie, httponly=True, samesite="strict", path=None, secure=_is_secure(scope)
            )
        return welcome


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


def _is_same_origin(scope: Scope, hosts: list[bytes]) -> bool:
    """Return whether a request comes from our page, or from no page at all.

    Browsers say where a request comes from, in ``Sec-Fetch-Site`` or, older ones, in ``Origin``; other
    clients, which send no cookie unasked, say neither. The first also holds behind a proxy that names
    another host.

    Source: https://web.dev/articles/fetch-metadata
    """
    sites = _values(scope, b"sec-fetch-site")
    if sites:
        return all(site.strip() in (b"same-origin", b"none") for site in sites)
    origins = _values(scope, b"origin")
    own = [host.strip().lower() for host in hosts]
    return all(origin.strip().lower().partition(b"://")[2] in own for origin in origins)


def _is_bearer(value: bytes) -> bool:
    return value[:7].lower() == b"bearer "


def _cookies(scope: Scope) -> list[bytes]:
    """Return the cookies of our name; more than one if the stream is mounted at more than one path."""
    pairs = (pair.partition(b"=") for value in _values(scope, b"cookie") for pair in value.split(b";"))
    return [value.strip() for name, _, value in pairs if name.strip() == COOKIE.encode()]


def _taken_from_query(scope: Scope) -> bytes | None:
    """Take the token out of a query; None if there is none."""
    pairs = scope["query_string"].split(b"&")
    tokens = [pair[6:] for pair in pairs if pair.startswith(b"token=")]
    if not tokens:
        return None
    scope["query_string"] = b"&".join(pair for pair in pairs if not pair.startswith(b"token="))
    return unquote_to_bytes(tokens[0].replace(b"+", b" "))


def _is_secure(scope: Scope) -> bool:
    """Return whether the browser came by TLS, here or at a proxy; who says so wrongly gets no cookie back."""
    proxies = _values(scope, b"x-forwarded-proto")
    return scope.get("scheme") == "https" or any(p.strip().lower().startswith(b"https") for p in proxies)
