"""The ASGI application: dashboard, API, metrics and live events of one stream."""

import hmac
from pathlib import Path
from typing import Any

import msgspec

from kvstream.errors import MissingExtraError
from kvstream.sinks.prometheus import exposition
from kvstream.stream import KVStream
from kvstream.web.state import Place, States, blocks, history, recent_distributions

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, RedirectResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from kvstream.web.events import AlertLog, LiveEvents
except ImportError:
    raise MissingExtraError("the dashboard", "web") from None

STATIC = Path(__file__).parent / "static"
COOKIE = "kvstream_token"
_OPEN_TO_ALL = ("/healthz", "/readyz")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_MOST_WINDOWS = 100_000
_MOST_ALERTS = 1000


def create_app(stream: KVStream, *, token: str | None = None, max_clients: int = 64) -> Starlette:
    """The application of a stream (see ``KVStream.asgi``)."""
    routes = _Routes(stream, max_clients)
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/metrics", routes.metrics),
            Route("/api/summary", routes.summary),
            Route("/api/state", routes.state),
            Route("/api/alerts", routes.alerts),
            Route("/api/history", routes.history),
            Route("/api/distributions", routes.distributions),
            Route("/api/blocks", routes.blocks),
            Route("/events", routes.events),
            Route("/healthz", routes.health),
            Route("/readyz", routes.ready),
        ],
        middleware=[Middleware(_Guard, token=token)],
    )
    app.state.live = routes.live
    return app


class _Routes:
    """What each path answers; ``?source=…&tier=…`` choose, by default everything."""

    def __init__(self, stream: KVStream, max_clients: int) -> None:
        self._stream = stream
        self._states = States(stream)
        self._log = AlertLog(stream)
        self.live = LiveEvents(stream, self._log, self._states, max_clients)

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def metrics(self, request: Request) -> Response:
        body, content_type = await exposition(self._stream, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    async def summary(self, request: Request) -> Response:
        return _json(await self._stream.summarize(*_place(request)))

    async def state(self, request: Request) -> Response:
        return Response(await self._states.get(_place(request)), media_type="application/json")

    async def alerts(self, request: Request) -> Response:
        """Newest first, and how far they go."""
        limit = _whole(request, "limit", _MOST_ALERTS)
        if limit is None:
            return _json({"error": f"limit must be a number from 1 to {_MOST_ALERTS:,}"}, 400)
        kept = self._log.after(0)[-limit:]
        return _json(
            {
                "last_event_id": f"{self._log.boot}-{self._log.newest}",
                "told": self._log.newest,
                "alerts": [alert for _, alert in reversed(kept)],
            }
        )

    async def history(self, request: Request) -> Response:
        windows = _whole(request, "windows", _MOST_WINDOWS)
        if windows is None:
            return _json({"error": f"windows must be a number from 1 to {_MOST_WINDOWS:,}"}, 400)
        return _json(await history(self._stream, _place(request), windows))

    async def distributions(self, request: Request) -> Response:
        return _json(await recent_distributions(self._stream, _place(request)))

    async def blocks(self, request: Request) -> Response:
        found = blocks(self._stream, _place(request))
        if found is None:
            return _json({"error": "choose one source and tier: ?source=…&tier=…"}, 404)
        return _json(found)

    async def events(self, request: Request) -> Any:
        if not self.live.admits():
            return _json({"error": "too many clients follow already"}, 503, {"retry-after": "10"})
        last = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        return self.live.follow(_place(request), last)

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok", "clients": self.live.statistics()._asdict()})

    async def ready(self, request: Request) -> Response:
        if self._stream.is_open:
            return Response("ready\n", media_type="text/plain")
        return Response("the stream is not open\n", 503, media_type="text/plain")


def _place(request: Request) -> Place:
    return Place(request.query_params.get("source") or None, request.query_params.get("tier") or None)


def _whole(request: Request, name: str, most: int) -> int | None:
    """A number that a question brings, ``most`` if it does not; None if it is none that can be used."""
    text = request.query_params.get(name, str(most))
    return int(text) if text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most else None


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


class _Guard:
    """Asks for the token, if there is one, and adds what keeps browsers from doing anything else.

    A browser brings it once as ``/?token=…`` and has it as a cookie from then on; scripts cannot read it.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in own),
                ]
            await send(message)

        answer = self._app if self._token is None else self._checked(Request(scope), self._token)
        await answer(scope, receive, send_with_headers)

    def _checked(self, request: Request, token: str) -> ASGIApp:
        """What answers a request, given the token that it should bring."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path in _OPEN_TO_ALL:
            return self._app
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if kind.lower() == "bearer" else request.cookies.get(COOKIE, "")
        if hmac.compare_digest(given.encode(), token.encode()):
            return self._app
        asked = request.query_params.get("token")
        if asked is not None and hmac.compare_digest(asked.encode(), token.encode()):
            welcome = RedirectResponse(request.url.path, 303)
            welcome.set_cookie(COOKIE, token, httponly=True, samesite="strict", path=request.url.path)
            return welcome
        said = "this needs a token: a bearer token, or /?token=… in a browser\n"
        return Response(said, 401, {"www-authenticate": "Bearer"}, "text/plain")
