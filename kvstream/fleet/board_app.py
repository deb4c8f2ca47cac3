"""The ASGI application of a board: a page of thousands of caches, the worst first, and its API."""

import re
from collections.abc import Iterable
from pathlib import Path

from kvstream.errors import MissingExtraError
from kvstream.fleet.board import Board

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from kvstream.web.app import STATIC as WEB_STATIC
    from kvstream.web.guard import Access, Guard
    from kvstream.web.json_body import json_response
except ImportError:
    raise MissingExtraError("the page of a fleet", "web") from None

_STATIC = Path(__file__).parent / "static"
_MOST_LINES = 1000
_NUMBER = re.compile(r"[0-9]{1,9}")


def board_app(
    board: Board, *, token: str | None = None, allowed_hosts: Iterable[str] = (), authenticated: bool = False
) -> Starlette:
    """Return the application of a board.

    Args:
        board: What it shows.
        token: What requests must bring, if anything.
        allowed_hosts: Host names that may be asked for besides those of loopback.
        authenticated: Ask for nothing.
    """

    async def page(request: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def script(request: Request) -> Response:
        return FileResponse(_STATIC / "fleet.js")

    async def overview(request: Request) -> Response:
        return json_response(board.overview())

    async def caches(request: Request) -> Response:
        """Answer with caches, the worst first: ``?limit=…&offset=…&text=…``."""
        limit, offset = _whole(request, "limit", 100), _whole(request, "offset", 0)
        if limit is None or offset is None or not 1 <= limit <= _MOST_LINES:
            return json_response(
                {"error": f"limit must be a number from 1 to {_MOST_LINES:,}, offset one from 0"}, 400
            )
        lines = board.worst(limit, offset, request.query_params.get("text", ""))
        return json_response({"overview": board.overview(), "caches": lines})

    async def summary(request: Request) -> Response:
        asked = request.query_params
        found = board.summary(asked.get("source", ""), asked.get("tier", ""))
        if found is None:
            return json_response({"error": "no such cache: ?source=…&tier=…"}, 404)
        return Response(found, media_type="application/json")

    async def health(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(request: Request) -> Response:
        if board.is_whole:
            return Response("ready\n", media_type="text/plain")
        return Response("the topic is being read\n", 503, media_type="text/plain")

    access = Access(token, allowed_hosts, authenticated)
    app = Starlette(
        routes=[
            Route("/", page),
            Route("/fleet.js", script),
            Mount("/static", StaticFiles(directory=WEB_STATIC)),
            Route("/api/overview", overview),
            Route("/api/caches", caches),
            Route("/api/summary", summary),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
        middleware=[Middleware(Guard, access=access, faults=board.faults)],
    )
    app.router.redirect_slashes = False  # it would send to whatever host the request names
    return app


def _whole(request: Request, name: str, default: int) -> int | None:
    """Return a number of the query; None if it is none."""
    text = request.query_params.get(name, str(default))
    return int(text) if _NUMBER.fullmatch(text) else None
