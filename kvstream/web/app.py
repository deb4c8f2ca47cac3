"""The ASGI application: dashboard, API, metrics and live events of one stream."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.errors import ConfigError, MissingExtraError
from kvstream.exporters.prometheus import exposition
from kvstream.reports.overview import Selection, States, blocks, history, recent_distributions, sparklines
from kvstream.stream import KVStream
from kvstream.web.messages import Alerts, Inputs
from kvstream.web.openapi import MAX_ALERTS, MAX_SECONDS, MAX_WINDOWS, document

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from kvstream.web.events import AlertLog, LiveEvents
    from kvstream.web.guard import Access, Guard
    from kvstream.web.json_body import RefusedError, json_response, refused
    from kvstream.web.marks import MarkRoutes
    from kvstream.web.silences import SilenceRoutes
except ImportError:
    raise MissingExtraError("the dashboard", "web") from None

STATIC = Path(__file__).parent / "static"
MAX_CLIENTS = 256
_NUMBER = re.compile(r"[0-9]{1,9}")


def application(
    stream: KVStream,
    *,
    token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    authenticated: bool = False,
    max_clients: int = MAX_CLIENTS,
    connections: Callable[[], NamedTuple] | None = None,
    listening: Sequence[str] = (),
) -> Starlette:
    """Return a stream's application (``kvstream.web.create_app``).

    ``connections`` counts its server's; ``listening`` names where the stream's frames are taken.
    """
    access = Access(token, allowed_hosts, authenticated)
    routes, silences = _Routes(stream, max_clients, connections, listening), SilenceRoutes(stream)
    marks = MarkRoutes(stream)
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/metrics", routes.metrics),
            Route("/api/openapi.json", routes.openapi),
            Route("/api/summary", routes.summary),
            Route("/api/state", routes.state),
            Route("/api/alerts", routes.alerts),
            Route("/api/inputs", routes.inputs),
            Route("/api/history", routes.history),
            Route("/api/sparklines", routes.sparklines),
            Route("/api/distributions", routes.distributions),
            Route("/api/blocks", routes.blocks),
            Route("/api/silences", silences.collection, methods=["GET", "POST"]),
            Route("/api/silences/{id}", silences.one, methods=["DELETE"]),
            Route("/api/alerts/{fingerprint}/acknowledge", silences.acknowledge, methods=["POST"]),
            Route("/api/marks", marks.collection, methods=["GET", "POST"]),
            Route("/api/marks/{id}", marks.one, methods=["DELETE"]),
            Route("/events", routes.events),
            Route("/healthz", routes.health),
            Route("/readyz", routes.ready),
        ],
        middleware=[Middleware(Guard, access=access, faults=stream.faults)],
        exception_handlers={RefusedError: refused, ConfigError: refused},
    )
    app.router.redirect_slashes = False  # it would send to whatever host the request names
    app.state.live = routes.live
    return app


class _Routes:
    """What each path answers; ``?source=…&tier=…`` choose, by default everything."""

    def __init__(
        self,
        stream: KVStream,
        max_clients: int,
        connections: Callable[[], NamedTuple] | None,
        listening: Sequence[str],
    ) -> None:
        self._stream, self._connections = stream, connections
        self._states = States(stream, listening)
        self._log = AlertLog(stream)
        self.live = LiveEvents(stream, self._log, self._states, max_clients)

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def metrics(self, request: Request) -> Response:
        body, content_type = await exposition(self._stream, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    async def openapi(self, request: Request) -> Response:
        return json_response(document())

    async def summary(self, request: Request) -> Response:
        return json_response(await self._stream.summary(*_selection(request)))

    async def state(self, request: Request) -> Response:
        return Response(await self._states.get(_selection(request)), media_type="application/json")

    async def alerts(self, request: Request) -> Response:
        """Answer with alerts, newest first, and the number of the newest."""
        kept = self._log.after(0)[-_count(request, "limit", MAX_ALERTS) :]
        return json_response(
            Alerts(
                last_event_id=f"{self._log.boot}-{self._log.newest}",
                newest=self._log.newest,
                alerts=cast("list[CacheAlert]", [msgspec.Raw(alert) for _, alert in reversed(kept)]),
            )
        )

    async def inputs(self, request: Request) -> Response:
        """Say what is connected, since when not, and what came over each."""
        return json_response(Inputs(inputs=self._stream.inputs()))

    async def history(self, request: Request) -> Response:
        windows = _count(request, "windows", MAX_WINDOWS)
        back = _count(request, "seconds", MAX_SECONDS) if "seconds" in request.query_params else 0
        return json_response(await history(self._stream, _selection(request), windows, back))

    async def sparklines(self, request: Request) -> Response:
        return json_response(await sparklines(self._stream))

    async def distributions(self, request: Request) -> Response:
        return json_response(await recent_distributions(self._stream, _selection(request)))

    async def blocks(self, request: Request) -> Response:
        shown = await blocks(self._stream, _selection(request))
        if shown is None:
            raise RefusedError(404, "choose one source and tier: ?source=…&tier=…")
        return json_response(shown)

    async def events(self, request: Request) -> Any:
        if request.method == "HEAD":  # which has no body to follow
            return Response(media_type="text/event-stream")
        last = request.headers.get("last-event-id") or request.query_params.get("last_event_id", "")
        return self.live.follow(_selection(request), last)

    async def health(self, request: Request) -> Response:
        known = {"status": "ok", "clients": self.live.statistics()._asdict()}
        if self._connections is not None:
            known["connections"] = self._connections()._asdict()
        return json_response(known)

    async def ready(self, request: Request) -> Response:
        if self._stream.is_open:
            return Response("ready\n", media_type="text/plain")
        return Response("the stream is not open\n", 503, media_type="text/plain")


def _selection(request: Request) -> Selection:
    return Selection(request.query_params.get("source") or None, request.query_params.get("tier") or None)


def _count(request: Request, name: str, most: int) -> int:
    """Return a number of the query; the most there may be if it has none.

    Raises:
        RefusedError: If it cannot be used.
    """
    text = request.query_params.get(name, str(most))
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise RefusedError(400, f"{name} must be a number from 1 to {most:,}")
    return int(text)
